//! A length of time as people write it: `90s`, `10m`, `1h30m`.
//!
//! Invariant: the text is kept as written, so that what was applied reads back unchanged.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// Digits and a unit (`s`, `m` or `h`), once or several times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HumanDuration(pub String);

impl HumanDuration {
    /// From text that the caller wrote.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The length of time.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the text.
    pub fn parse(&self) -> Result<Duration, String> {
        let wrong = || format!("{:?} is not a time like 90s, 10m or 1h30m", self.0);
        let mut seconds: u64 = 0;
        let mut digits = String::new();
        for letter in self.0.chars() {
            if letter.is_ascii_digit() {
                digits.push(letter);
                continue;
            }
            let unit = match letter {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                _ => return Err(wrong()),
            };
            let count: u64 = digits.parse().map_err(|_| wrong())?;
            digits.clear();
            seconds = count
                .checked_mul(unit)
                .and_then(|more| seconds.checked_add(more))
                .ok_or_else(wrong)?;
        }
        if self.0.is_empty() || !digits.is_empty() {
            return Err(wrong());
        }
        Ok(Duration::from_secs(seconds))
    }

    /// The length of time, or `fallback` where the text is none. Specs are checked before they are
    /// used, so the fallback is for those that never passed the check.
    pub fn or(&self, fallback: Duration) -> Duration {
        self.parse().unwrap_or(fallback)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "HumanDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([0-9]{1,6}[smh])+$",
            "maxLength": 20,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0s", 0)] {
            assert_eq!(HumanDuration::new(text).parse(), Ok(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["", "10", "m", "1d", "-1s", "1.5h", "99999999999999999999h"] {
            assert!(HumanDuration::new(text).parse().unwrap_err().contains(text), "{text}");
        }
    }
}
