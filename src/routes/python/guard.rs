//! Whether a text may be given to the parser: how deep its syntax tree can become at most. The parser, the tree and who
//! walks it are recursive, and a file may be written to exhaust them.

/// Brackets within brackets.
const MAX_BRACKETS: usize = 150;
/// Words and signs without a comma or the end of a line between them.
const MAX_RUN: usize = 3000;
/// Blanks before the first word of a line.
const MAX_INDENT: usize = 400;

/// Whether the syntax tree of this text stays within the depth that the stack is made for.
pub(crate) fn is_shallow(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut run) = (0, 0_usize, 0_usize);
    let mut line_start = true;
    while let Some(&byte) = bytes.get(at) {
        if line_start {
            let blanks = bytes[at..]
                .iter()
                .take_while(|b| matches!(b, b' ' | b'\t' | 0x0c));
            let indent = blanks.count();
            if indent > MAX_INDENT
                && depth == 0
                && !matches!(bytes.get(at + indent), Some(b'\n' | b'#' | b'\r') | None)
            {
                return false;
            }
            line_start = false;
        }
        match byte {
            b'#' => {
                at += bytes[at..].iter().take_while(|b| **b != b'\n').count();
                continue;
            }
            b'"' | b'\'' => {
                let (end, braces) = string_end(bytes, at);
                if braces > MAX_BRACKETS {
                    return false;
                }
                at = end;
                run += 1;
                if run > MAX_RUN {
                    return false;
                }
                continue;
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                run += 1;
                if depth > MAX_BRACKETS {
                    return false;
                }
            }
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                run += 1;
            }
            b',' | b';' => run = 0,
            b'\n' => {
                line_start = true;
                if depth == 0 {
                    run = 0;
                }
            }
            b'\\' if bytes.get(at + 1) == Some(&b'\n') => at += 1,
            b' ' | b'\t' | b'\r' | 0x0c => {}
            _ if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 => {
                let word = bytes[at..]
                    .iter()
                    .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_' || **b >= 0x80);
                at += word.count();
                run += 1;
                if run > MAX_RUN {
                    return false;
                }
                continue;
            }
            _ => run += 1,
        }
        if run > MAX_RUN {
            return false;
        }
        at += 1;
    }
    true
}

/// Where the string ends that starts at `at`, and how deep the braces in it are.
fn string_end(bytes: &[u8], at: usize) -> (usize, usize) {
    let quote = bytes[at];
    let triple = bytes[at..].starts_with(&[quote; 3]);
    let mut here = at + if triple { 3 } else { 1 };
    let (mut braces, mut deepest) = (0_usize, 0);
    while let Some(&byte) = bytes.get(here) {
        match byte {
            b'\\' => here += 1,
            b'{' => {
                braces += 1;
                deepest = deepest.max(braces);
            }
            b'}' => braces = braces.saturating_sub(1),
            b'\n' if !triple => return (here, deepest),
            _ if byte == quote && !triple => return (here + 1, deepest),
            _ if byte == quote && bytes[here..].starts_with(&[quote; 3]) => {
                return (here + 3, deepest);
            }
            _ => {}
        }
        here += 1;
    }
    (bytes.len(), deepest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_code_is_shallow() {
        assert!(is_shallow(
            "x = {'a': [1, (2, 3)]}\nif x:\n    y = f(x)[0].b\n"
        ));
        let flat = "    'k': 1,\n".repeat(50_000);
        assert!(is_shallow(&format!("x = {{\n{flat}}}\n")));
        assert!(is_shallow("s = '((((((' + \"\"\"\n{{{{\n\"\"\"\n"));
    }

    #[test]
    fn what_would_exhaust_the_stack_is_not() {
        for piece in [
            "(",
            "[",
            "-",
            "not ",
            "lambda: ",
            "a.",
            "a+",
            "a if b else ",
            "f()",
            "x[0]",
            "await ",
        ] {
            assert!(
                !is_shallow(&format!("x = {}a", piece.repeat(50_000))),
                "{piece}"
            );
        }
        let lines: Vec<String> = (0..1000).map(|n| " ".repeat(n) + "if x:\n").collect();
        let nested = lines.concat();
        assert!(!is_shallow(&nested));
    }
}
