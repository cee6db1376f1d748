use serde_json::{Value, json};

use super::*;

fn read_opcodes(opcodes: &[u8]) -> Result<Value, Unreadable> {
    read(&[b"\x80\x04", opcodes, b"."].concat())
}

#[test]
fn plain_data() {
    // pickle.dumps({"a": [1, -2, 300, 70000, 2**40, 1.5, True, None], "b": ("é", b"x")}, 4) of Python 3.11.
    let pickle = b"\x80\x04\x95>\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00\x88Ne\x8c\x01b\x94\x8c\x02\xc3\xa9\x94C\x01x\x94\x86\x94u.";
    let value = json!({"a": [1, -2, 300, 70000, 1_i64 << 40, 1.5, true, null], "b": ["é", null]});
    assert_eq!(read::<Value>(pickle), Ok(value));
}

#[test]
fn nothing_is_called() {
    // cos\nsystem\n(S'true'\ntR.
    assert_eq!(
        read::<Value>(b"cos\nsystem\n(S'true'\ntR."),
        Ok(json!({"exc_type": "system"}))
    );
}

#[test]
fn what_is_no_pickle() {
    for opcodes in [
        b"".as_slice(),
        b"a",
        b"(u",
        b"t",
        b"h\x05",
        b"X\xff\xff\xff\xffx",
        b"\xff",
        b"Icheese",
        b"K\x010",
    ] {
        assert_eq!(
            read_opcodes(opcodes),
            Err(Unreadable::Serialized),
            "{}",
            opcodes.escape_ascii()
        );
    }
}

#[test]
fn lists_that_double_do_not_grow() {
    // Each list holds the one before it twice: 2^60 leaves when written out.
    let mut opcodes = b"]\x94".to_vec();
    for number in 0..60 {
        opcodes.extend([b']', 0x94, b'(', b'h', number, b'h', number, b'e']);
    }
    assert_eq!(read_opcodes(&opcodes), Err(Unreadable::TooLarge));
}

#[test]
fn objects_that_hold_themselves_come_to_an_end() {
    let mut list = b"]\x94(".to_vec();
    list.extend(b"h\x00".repeat(500_000));
    list.push(b'e');
    assert_eq!(read_opcodes(&list), Err(Unreadable::TooDeep));

    let mut dict = b"]\x94(}\x94(".to_vec();
    dict.extend(b"NN".repeat(100_000));
    dict.push(b'u');
    dict.extend(b"h\x01".repeat(100_000));
    dict.push(b'e');
    assert_eq!(read_opcodes(&dict), Err(Unreadable::TooLarge));
}

#[test]
fn depth_is_no_danger() {
    let mut opcodes = b"N".to_vec();
    opcodes.extend(b"\x85".repeat(500_000));
    assert_eq!(read_opcodes(&opcodes), Err(Unreadable::TooDeep));
    let marks = b"(".repeat(1_000_000);
    assert!(read_opcodes(&marks).is_err());
}

/// What a result document keeps, as far as these tests go.
#[derive(Debug, PartialEq, serde::Deserialize)]
struct Status {
    status: String,
}

#[test]
fn what_nobody_asked_for_costs_nothing() {
    // {"x": [the list itself, a hundred thousand times], "status": "SUCCESS"}
    let mut opcodes = b"}(\x8c\x01x]\x94(".to_vec();
    opcodes.extend(b"h\x00".repeat(100_000));
    opcodes.extend(b"e\x8c\x06status\x8c\x07SUCCESSu");
    let pickle = [b"\x80\x04", opcodes.as_slice(), b"."].concat();
    let status = "SUCCESS".to_owned();
    assert_eq!(read(&pickle), Ok(Status { status }));
}

#[test]
fn a_name_is_held_once_however_many_instances_it_has() {
    // A class of 2,900 letters, and 70 instances of it for each 230 bytes: each used to have a copy of the name.
    let mut opcodes = b"(cm\n".to_vec();
    opcodes.extend(b"C".repeat(500_000));
    opcodes.extend(b"\n\x94");
    opcodes.extend(b"h\x00)R".repeat(100_000));
    opcodes.push(b'l');
    assert_eq!(read_opcodes(&opcodes), Err(Unreadable::TooLarge));
    assert_eq!(
        read(&[opcodes.as_slice(), b"."].concat()),
        Ok(serde::de::IgnoredAny)
    );
}

#[test]
fn text_is_copied_within_the_budget() {
    let mut opcodes = b"(X\x00\x00\x08\x00".to_vec();
    opcodes.extend(b"t".repeat(0x80000));
    opcodes.push(0x94);
    opcodes.extend(b"h\x00".repeat(100_000));
    opcodes.push(b'l');
    assert_eq!(read_opcodes(&opcodes), Err(Unreadable::TooLarge));
}

#[test]
fn what_has_more_objects_than_can_be_held_is_too_large() {
    let mut opcodes = b"(".to_vec();
    opcodes.extend(b"N".repeat(MAX_OBJECTS));
    opcodes.push(b'l');
    assert_eq!(read_opcodes(&opcodes), Err(Unreadable::TooLarge));
    let mut opcodes = b"N".to_vec();
    opcodes.extend(b"2".repeat(MAX_ENTRIES));
    assert_eq!(read_opcodes(&opcodes), Err(Unreadable::TooLarge));
}

#[test]
fn a_signature_is_its_dictionary() {
    // pickle.dumps([signature("a").set(task_id="abc")], 2) of Celery 5.7, without the keys that don't matter.
    let pickle = b"\x80\x02]q\x00ccelery.canvas\nsignature\nq\x01}q\x02(X\x04\x00\x00\x00taskq\x03X\x01\x00\x00\x00aq\x04\
        X\x07\x00\x00\x00optionsq\x05}q\x06X\x07\x00\x00\x00task_idq\x07X\x03\x00\x00\x00abcq\x08su\x85q\x09Rq\x0aa.";
    assert_eq!(
        read::<Value>(pickle),
        Ok(json!([{"task": "a", "options": {"task_id": "abc"}}]))
    );
}

#[test]
fn the_keywords_of_a_group_are_its_tasks() {
    // pickle.dumps(group(...)) by Celery 5.7, made short.
    let pickle = b"ccelery.canvas\nsignature\n((dS'task'\nS'celery.group'\nsS'kwargs'\n(dS'tasks'\n(lccelery.canvas\n\
signature\n((dS'task'\nS't'\nsS'options'\n(dS'task_id'\nS'x'\nsstRasstR.";
    assert_eq!(
        read::<Value>(pickle),
        Ok(
            json!({"task": "celery.group", "kwargs": {"tasks": [{"task": "t", "options": {"task_id": "x"}}]}})
        )
    );
}
