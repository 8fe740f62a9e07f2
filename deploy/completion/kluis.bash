# bash completion for kluis: made by `kluis completion bash`
# shellcheck shell=bash disable=SC2207
_kluis() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local group="" command="" words="" i
    local groups="vault secret cluster health completion version"
    local global="--endpoint --ca-file --token-file --profile --output --query --timeout --help"
    COMPREPLY=()
    case $prev in
    --name | -n) return ;;
    --vault-name) return ;;
    --value) return ;;
    --file | -f) compopt -o default; return ;;
    --encoding | -e) COMPREPLY=($(compgen -W "utf-8 base64 hex" -- "$cur")); return ;;
    --version | -v) return ;;
    --content-type | --description) return ;;
    --tags) return ;;
    --expires) return ;;
    --not-before) return ;;
    --disabled) COMPREPLY=($(compgen -W "true false" -- "$cur")); return ;;
    --enabled) COMPREPLY=($(compgen -W "true false" -- "$cur")); return ;;
    --retention-days) return ;;
    --enable-purge-protection) COMPREPLY=($(compgen -W "true false" -- "$cur")); return ;;
    --resource-group | -g) return ;;
    --location | -l) return ;;
    --subscription) return ;;
    --maxresults) return ;;
    --group) return ;;
    --to) return ;;
    --node-id) return ;;
    --node) return ;;
    --watch | -w) return ;;
    --region) return ;;
    --client-address) return ;;
    --peer-address) return ;;
    --consistency) COMPREPLY=($(compgen -W "linearizable quorum stale" -- "$cur")); return ;;
    --max-age) return ;;
    --endpoint) return ;;
    --ca-file) compopt -o default; return ;;
    --token-file) compopt -o default; return ;;
    --profile) compopt -o default; return ;;
    --output | -o) COMPREPLY=($(compgen -W "table json tsv none" -- "$cur")); return ;;
    --query) return ;;
    --timeout) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -*) ;;
        *)
            if [ -z "$group" ]; then
                case " $groups " in *" ${COMP_WORDS[i]} "*) group=${COMP_WORDS[i]} ;; esac
            elif [ -z "$command" ]; then
                command=${COMP_WORDS[i]}
            fi
            ;;
        esac
    done
    case $group in
    '') words=$groups ;;
    vault)
        case $command in
        '') words="create show list update delete show-deleted list-deleted recover purge" ;;
        create) words="--name --retention-days --enable-purge-protection --tags --resource-group --location --subscription" ;;
        show) words="--name --consistency --max-age" ;;
        list) words="--maxresults --consistency --max-age" ;;
        update) words="--name --tags --enable-purge-protection --retention-days" ;;
        delete) words="--name" ;;
        show-deleted) words="--name --consistency --max-age" ;;
        list-deleted) words="--maxresults --consistency --max-age" ;;
        recover) words="--name" ;;
        purge) words="--name" ;;
        esac
        ;;
    secret)
        case $command in
        '') words="set show list list-versions set-attributes delete show-deleted list-deleted recover purge backup restore download" ;;
        set) words="--vault-name --name --value --file --content-type --tags --expires --not-before --disabled" ;;
        show) words="--vault-name --name --version --encoding --consistency --max-age" ;;
        list) words="--vault-name --maxresults --consistency --max-age" ;;
        list-versions) words="--vault-name --name --maxresults --consistency --max-age" ;;
        set-attributes) words="--vault-name --name --version --enabled --content-type --tags --expires --not-before" ;;
        delete) words="--vault-name --name" ;;
        show-deleted) words="--vault-name --name --consistency --max-age" ;;
        list-deleted) words="--vault-name --maxresults --consistency --max-age" ;;
        recover) words="--vault-name --name" ;;
        purge) words="--vault-name --name" ;;
        backup) words="--vault-name --name --file --force --consistency --max-age" ;;
        restore) words="--vault-name --file" ;;
        download) words="--vault-name --name --file --version --encoding --force --consistency --max-age" ;;
        esac
        ;;
    cluster)
        case $command in
        '') words="status digest move-leader transfer replace-node add-node promote remove-node drain-node undrain-node drain-region undrain-region confirm-time" ;;
        status) words="--node --watch" ;;
        digest) words="--group --node" ;;
        move-leader) words="--group --to" ;;
        transfer) words="--group --to" ;;
        replace-node) words="--node-id --no-wait" ;;
        add-node) words="--node-id --name --region --client-address --peer-address --witness --standby --no-wait" ;;
        promote) words="--node-id --no-wait" ;;
        remove-node) words="--node-id --no-wait" ;;
        drain-node) words="--node-id --no-wait" ;;
        undrain-node) words="--node-id" ;;
        drain-region) words="--region --no-wait" ;;
        undrain-region) words="--region" ;;
        confirm-time) words="--step --node" ;;
        esac
        ;;
    completion) words=bash ;;
    esac
    case $cur in
    -*) words="$words $global" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _kluis kluis
