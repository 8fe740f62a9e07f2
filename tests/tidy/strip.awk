# strip(line): the line with comments, strings and character literals blanked, so that the checks see
# only code. Comments may span lines: feed every line of a file in order; strip_reset() between files.
function strip_reset() { strip_in_comment = 0 }
function strip(line,    out, i, n, c, two, quote) {
    out = ""
    n = length(line)
    for (i = 1; i <= n; i++) {
        c = substr(line, i, 1)
        two = substr(line, i, 2)
        if (strip_in_comment) {
            if (two == "*/") { strip_in_comment = 0; i++ }
            continue
        }
        if (two == "/*") { strip_in_comment = 1; i++; out = out " "; continue }
        if (c == "\"" || c == "'") {
            quote = c
            for (i++; i <= n && substr(line, i, 1) != quote; i++) {
                if (substr(line, i, 1) == "\\") i++
            }
            out = out quote quote
            continue
        }
        out = out c
    }
    return out
}
