//! How many messages of each queue are looked at, as flags, the environment and the settings file give it.

/// Each message looked at is held and given back, so that there is an end to it.
const MAX_PEEK: u64 = 1_000_000;

/// A number of messages. Zero looks into no queue, which takes back what the environment or a file says.
pub(super) fn parse_peek(text: &str) -> Result<u64, String> {
    let digits = text.trim();
    let number = if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    };
    number
        .filter(|number| *number <= MAX_PEEK)
        .ok_or_else(|| format!("a number of messages, from 0 (look into no queue) to {MAX_PEEK}"))
}

#[cfg(test)]
mod tests {
    use super::parse_peek;

    #[test]
    fn is_a_number_within_limits() {
        assert_eq!(parse_peek("0"), Ok(0));
        assert_eq!(parse_peek(" 1000000 "), Ok(1_000_000));
        for text in [
            "",
            "-1",
            "+1",
            "1k",
            "1000001",
            "99999999999999999999",
            "\u{ff12}",
        ] {
            assert!(
                parse_peek(text).is_err_and(|expected| expected.contains("from 0")),
                "{text}"
            );
        }
    }
}
