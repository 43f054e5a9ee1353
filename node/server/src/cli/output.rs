//! Answers on the terminal: JSON for programs, tables for people.

use clap::ValueEnum;
use serde_json::Value;

/// How to print an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// One column of a table: its title, and the fields of a row's object that may fill it, the first
/// that is there.
pub(super) type Column = (&'static str, &'static [&'static str]);

/// Prints the objects of an array as a table.
pub(super) fn table(rows: &[Value], columns: &[Column]) -> String {
    let mut cells: Vec<Vec<String>> =
        vec![columns.iter().map(|(title, _)| (*title).to_owned()).collect()];
    for row in rows {
        let cell = |fields: &[&str]| {
            fields.iter().find_map(|field| row.get(field)).map_or("-".to_owned(), text)
        };
        cells.push(columns.iter().map(|(_, fields)| cell(fields)).collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut printed = String::new();
    for row in &cells {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        printed.push_str(padded.join("  ").trim_end());
        printed.push('\n');
    }
    printed
}

/// A value as it stands in a table.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            // A replica or node inside a row: its id says enough.
            fields.get("node").or_else(|| fields.get("id")).map_or_else(|| value.to_string(), text)
        }
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
    }
}

/// Indented JSON.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_align_and_missing_values_show() {
        let rows = [
            json!({"id": 1, "state": "Up", "replicas": [{"node": 1}, {"node": 22}]}),
            json!({"id": 1000, "leader": null}),
        ];
        let columns: [Column; 4] = [
            ("ID", &["id"]),
            ("STATE", &["state"]),
            ("COPIES", &["replicas"]),
            ("LEADER", &["leader"]),
        ];
        let expected =
            "ID    STATE  COPIES  LEADER\n1     Up     1,22    -\n1000  -      -       -\n";
        assert_eq!(table(&rows, &columns), expected);
    }
}
