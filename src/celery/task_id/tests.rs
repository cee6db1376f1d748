use proptest::prelude::*;

use super::*;

const ID: &str = "6f1c0e5a-0001-4000-8000-6b696c6c6564";

fn of(text: &str) -> Vec<String> {
    taken_from(text).map_or_else(Vec::new, |taken| taken.ids)
}

#[test]
fn ids_as_they_are_pasted() {
    for text in [
        format!("\"{ID}\""),
        format!("'{ID}',"),
        format!("({ID})"),
        format!("['{ID}']"),
        format!("{{{ID}}}"),
        format!(" {ID} "),
        format!("urn:uuid:{ID}"),
        format!("shop.add[{ID}]"),
        format!("celery-task-meta-{ID}"),
        format!("prefix:celery-task-meta-{ID}"),
        format!("<AsyncResult: {ID}>"),
        format!("<EagerResult: {ID}>"),
        format!("[<AsyncResult: {ID}>]"),
        ID.to_uppercase(),
        ID.replace('-', ""),
        ID.replace('-', "").to_uppercase(),
        format!("https://flower:5555/task/{ID}"),
        format!("https://flower/api/task/info/{ID}?x=1"),
        format!("Task shop.add[{ID}] received"),
        format!(
            "{{\"task_id\": \"{ID}\", \"root_id\": \"{}\"}}",
            ID.replace('6', "7")
        ),
        format!("task_id={ID}"),
        format!("celery.task_id='{ID}'"),
    ] {
        let taken = taken_from(&text).unwrap_or_else(|| panic!("nothing in {text}"));
        assert_eq!(
            (taken.ids, taken.sure),
            (vec![ID.to_owned()], true),
            "{text}"
        );
    }
    assert_eq!(taken_from(ID), None);
}

#[test]
fn lines_of_logs() {
    let other = ID.replace('6', "7");
    for line in [
        format!("[2026-01-31 12:00:00,000: INFO/MainProcess] Task shop.add[{ID}] received"),
        format!(
            "[2026-01-31 12:00:00,000: INFO/ForkPoolWorker-1] Task shop.add[{ID}] succeeded in 0.01s: '{other}'"
        ),
        format!(
            "[… ERROR/ForkPoolWorker-1] Task shop.add[{ID}] raised unexpected: ValueError('{other}')"
        ),
        format!("Task shop.add[{ID}] retry: Retry in 3s"),
        format!("Discarding revoked task: shop.add[{ID}]"),
        format!("Hard time limit (3s) exceeded for shop.add[{ID}]"),
        format!("[2026-01-31 12:00:00,000: INFO/ForkPoolWorker-1] shop.add[{ID}]: sold {other}"),
        format!(
            "{{\"timestamp\": \"2026\", \"message\": \"sold {other}\", \"task_id\": \"{ID}\"}}"
        ),
        format!("2026-01-31 level=info task_id={ID} msg=done order={other}"),
        format!("2026-01-31 sending the mail as {ID}."),
        format!("GET https://flower:5555/task/{ID} HTTP/1.1"),
    ] {
        let taken = taken_from_line(&line);
        assert_eq!(
            taken.map(|taken| taken.ids),
            Some(vec![ID.to_owned()]),
            "{line}"
        );
    }
    assert_eq!(
        taken_from_line("[2026-01-31 12:00:00,000: INFO/MainProcess] celery@w1 ready."),
        None
    );
    assert_eq!(taken_from_line("celery[1234]: started"), None);
}

#[test]
fn several_ids_in_one_text() {
    let other = ID.replace('6', "7");
    assert_eq!(of(&format!("{ID},{other}")), [ID, &other]);
    assert_eq!(of(&format!("['{ID}', '{other}', '{ID}']")), [ID, &other]);
    assert_eq!(of(&format!("<GroupResult: {ID} [{other}]>")), [ID, &other]);
}

#[test]
fn chosen_ids_in_the_same_dress() {
    for (text, id) in [
        ("'order 7'", "order 7"),
        ("order-7,", "order-7"),
        ("shop.add[order-7]", "order-7"),
        ("celery-task-meta-order-7", "order-7"),
        ("<AsyncResult: order-7>", "order-7"),
        (
            "Task shop.add[order 7; touch pwned $(id)] received",
            "order 7; touch pwned $(id)",
        ),
        ("https://flower/task/order%207", "order 7"),
        ("{\"task_id\": \"order-7\"}", "order-7"),
    ] {
        assert_eq!(of(text), [id], "{text}");
    }
    for id in [
        "order-7",
        "order 7; touch pwned $(id)",
        "a[0]",
        "(x)",
        "Task",
        "tenant/7",
    ] {
        assert_eq!(taken_from(id), None, "{id}");
    }
}

#[test]
fn what_may_be_an_id_as_a_whole_is_not_surely_another() {
    for text in ["order-ID", "tenant:ID", "tenant/ID", "ID-2", "x_ID"] {
        let text = text.replace("ID", ID);
        let taken = taken_from(&text).expect("a second reading");
        assert_eq!(
            (taken.ids, taken.sure),
            (vec![ID.to_owned()], false),
            "{text}"
        );
    }
    // A UUID with a letter before or behind it is none.
    assert_eq!(taken_from(&format!("x{ID}")), None);
}

#[test]
fn shapes() {
    for (id, is) in [
        (ID, Shape::Uuid),
        ("6f1c0e5a", Shape::Cut),
        ("6f1c0e5a-0001-4000-8000-6b696c6c656", Shape::Cut),
        ("6f1c0e5a-00…", Shape::Cut),
        ("6f1c0e5a-0001...", Shape::Cut),
        ("6f1c0e5a-0001-4000-8000-6b696c6c656g", Shape::Typo),
        ("6f1c0e5a-0001-400-8000-6b696c6c6564", Shape::Typo),
        ("6f1c0e5a-0001-4000-8000-6b696c6c65644", Shape::Typo),
        ("6f1c0e5a0001-4000-8000-6b696c6c6564", Shape::Typo),
        ("order-7", Shape::Custom),
        ("abc", Shape::Custom),
        ("", Shape::Custom),
    ] {
        assert_eq!(shape(id), is, "{id}");
    }
}

#[test]
fn ids_that_may_be_meant() {
    for meant in [
        "6f1c0e5a",
        "6f1c0e5a-0001-4000-8000-6b696c6c656",
        "6f1c0e5a-0001…",
        "6f1c0e5a-0001-4000-8000-6b696c6c6563",
        "6f1c0e5a-0001-4000-8000-6b696c6c656g",
        "6f1c0e5a-0001-400-8000-6b696c6c6564",
        "6f1c0e5a0001-4000-8000-6b696c6c6564",
        "f61c0e5a-0001-4000-8000-6b696c6c6564",
        "6f1c0e5a-0001-4000-8000-6b696c6c65644",
    ] {
        assert!(is_meant(meant, ID), "{meant}");
    }
    assert!(is_meant(ID, &ID.replace('-', "")));
    for other in [
        ID,
        "6f1c0e5b",
        "7f1c0e5a-0001-4000-8000-6b696c6c6563",
        "order-7",
    ] {
        assert!(!is_meant(other, ID), "{other}");
    }
    assert!(!is_meant("order-7", "order-8"));
}

proptest! {
    #[test]
    fn nothing_breaks_it(text in "[-0-9a-f\\[\\]\"' ,:{}<>…./T]{0,120}|.{0,60}") {
        let _ = (shape(&text), is_meant(&text, ID), is_meant(ID, &text), taken_from_line(&text));
        if let Some(taken) = taken_from(&text) {
            prop_assert!(!taken.ids.is_empty() && taken.ids.iter().all(|id| !id.is_empty()));
            prop_assert!(taken.ids != [text]);
        }
    }

    #[test]
    fn a_uuid_is_found_behind_anything_that_is_no_letter(before in "[^0-9A-Za-z]{0,9}", behind in "[^0-9A-Za-z]{0,9}") {
        prop_assume!(!(before.trim().is_empty() && behind.trim().is_empty()));
        prop_assert_eq!(of(&format!("{before}{ID}{behind}")), [ID]);
    }

    #[test]
    fn a_word_of_letters_and_dashes_is_itself(id in "[g-zG-Z][g-zG-Z0-9_-]{0,40}") {
        prop_assert_eq!(taken_from(&id), None);
        prop_assert_eq!(shape(&id), Shape::Custom);
    }
}
