//! Probes, without a socket.

use super::*;

fn checks(failure: Option<&'static str>) -> Vec<Check> {
    vec![Check { name: "one", failure: None }, Check { name: "two", failure }]
}

fn outcome(failure: Option<&'static str>, query: &str) -> (u16, String) {
    outcome_of("", failure, query)
}

fn outcome_of(one: &str, failure: Option<&'static str>, query: &str) -> (u16, String) {
    let response = probe(checks(failure), one, query);
    let status = response.status().as_u16();
    match response.into_body() {
        Body::Plain(bytes) => (status, String::from_utf8_lossy(&bytes).into_owned()),
        _ => panic!("a probe answers in plain text"),
    }
}

#[test]
fn a_probe_says_ok_and_more_if_asked() {
    assert_eq!(outcome(None, ""), (200, "ok\n".to_owned()));
    assert_eq!(outcome(None, "verbose"), (200, "[+]one ok\n[+]two ok\nok\n".to_owned()));
}

#[test]
fn a_failed_check_is_named() {
    let expected = (503, "[+]one ok\n[-]two failed: broken\n".to_owned());
    assert_eq!(outcome(Some("broken"), ""), expected);
}

#[test]
fn a_check_can_be_left_out() {
    assert_eq!(outcome(Some("broken"), "exclude=two&x"), (200, "ok\n".to_owned()));
}

#[test]
fn a_check_can_be_asked_for_alone() {
    assert_eq!(outcome_of("/one", Some("broken"), "").0, 200);
    assert_eq!(outcome_of("/two", Some("broken"), "").0, 503);
    assert_eq!(outcome_of("/three", None, "").0, 404);
    assert_eq!(outcome_of("more", None, "").0, 404);
}
