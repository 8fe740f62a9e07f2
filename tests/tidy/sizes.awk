# Files up to 900 lines, functions up to 70 (from the opening brace in column one to the closing one).
BEGIN { file_max = 900; function_max = 70 }
function end_of_file() {
    if (lines > file_max) { print name ":" lines ": file has " lines " lines, limit " file_max; found = 1 }
}
FNR == 1 { end_of_file(); name = FILENAME; start = 0; head = ""; strip_reset() }
{
    lines = FNR
    line = strip($0)
    if (line ~ /^[A-Za-z_].*\(/) head = line
    if (line ~ /^\{/) start = FNR
    if (line ~ /^\}/ && start > 0) {
        n = FNR - start + 1
        if (n > function_max) {
            sub(/\(.*/, "", head); sub(/.*[ *]/, "", head)
            print FILENAME ":" start ": function " head " has " n " lines, limit " function_max
            found = 1
        }
        start = 0
    }
}
END { end_of_file(); exit found }
