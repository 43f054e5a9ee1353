//! The configuration file: flags of `serve`, one `name = value` a line, `#` starts a comment.
//!
//! A file becomes flags in front of those of the command line, where a later flag replaces an
//! earlier one: so there is one parser, one set of names and one set of error messages.

use std::ffi::OsString;
use std::path::Path;

/// The arguments of `serve` with those of the file that `--config` (or `HOLDFAST_CONFIG`) names
/// put before them.
///
/// # Errors
/// A file that cannot be read, or a line that is not `name = value`.
pub fn expand_config_file(arguments: &[OsString], path: &Path) -> Result<Vec<OsString>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read --config {}: {error}", path.display()))?;
    let flags = parse(&text).map_err(|error| format!("--config {}: {error}", path.display()))?;
    let after_command = arguments
        .iter()
        .position(|argument| argument == "serve")
        .map_or(arguments.len(), |position| position + 1);
    let mut expanded = arguments[..after_command].to_vec();
    expanded.extend(flags.into_iter().map(OsString::from));
    expanded.extend_from_slice(&arguments[after_command..]);
    Ok(expanded)
}

fn parse(text: &str) -> Result<Vec<String>, String> {
    let mut flags = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| format!("line {}: expected name = value", number + 1))?;
        let name = name.trim().trim_start_matches("--");
        if name == "config" {
            return Err(format!("line {}: a file cannot name another file", number + 1));
        }
        flags.push(format!("--{name}={}", value.trim()));
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_flags_before_those_of_the_command_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.conf");
        std::fs::write(&path, "# a comment\nname = a\n\ninitial-cluster = a=h:1,b=h:2\n").unwrap();
        let arguments = ["node", "serve", "--name", "b"].map(OsString::from);
        let expanded = expand_config_file(&arguments, &path).unwrap();
        let expected =
            ["node", "serve", "--name=a", "--initial-cluster=a=h:1,b=h:2", "--name", "b"];
        assert_eq!(expanded, expected.map(OsString::from));
    }

    #[test]
    fn a_line_without_a_value_is_named() {
        assert!(parse("name = a\nnonsense").unwrap_err().starts_with("line 2"));
    }
}
