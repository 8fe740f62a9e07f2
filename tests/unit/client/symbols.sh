#!/bin/sh
# symbols.sh LIBKLUIS.SO KLUIS.H LIBKLUIS.3: the library shows what the header promises and nothing
# else, and the manual page names all of it.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
nm -D --defined-only "$1" | awk '{print $3}' | sort >"$dir/shown"
tr '\n' ' ' <"$2" | sed 's/KLUIS_API/\n&/g' |
    sed -n 's/^KLUIS_API [^(]*[ *]\(kluis_[a-z_0-9]*\)(.*/\1/p' | sort >"$dir/promised"
[ "$(wc -l <"$dir/promised")" -ge 30 ] || { echo "the header could not be read" >&2; exit 1; }
diff "$dir/promised" "$dir/shown"
sed -n 's/^\.Fn \(kluis_[a-z_0-9]*\) .*/\1/p' "$3" | sort -u >"$dir/described"
diff "$dir/promised" "$dir/described"
