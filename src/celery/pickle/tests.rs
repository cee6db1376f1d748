use serde_json::json;

use super::*;

fn read_opcodes(opcodes: &[u8]) -> Result<Value, Unreadable> {
    read(&[b"\x80\x04", opcodes, b"."].concat())
}

#[test]
fn plain_data() {
    // pickle.dumps({"a": [1, -2, 300, 70000, 2**40, 1.5, True, None], "b": ("é", b"x")}, 4) of Python 3.11.
    let pickle = b"\x80\x04\x95>\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00\x88Ne\x8c\x01b\x94\x8c\x02\xc3\xa9\x94C\x01x\x94\x86\x94u.";
    let value = json!({"a": [1, -2, 300, 70000, 1_i64 << 40, 1.5, true, null], "b": ["é", null]});
    assert_eq!(read(pickle), Ok(value));
}

#[test]
fn nothing_is_called() {
    // cos\nsystem\n(S'true'\ntR.
    assert_eq!(
        read(b"cos\nsystem\n(S'true'\ntR."),
        Ok(json!({"exc_type": "system"}))
    );
}

#[test]
fn private_data_is_not_copied() {
    // {"args": "x", "b": 1}
    assert_eq!(
        read_opcodes(b"}(\x8c\x04args\x8c\x01x\x8c\x01bK\x01u"),
        Ok(json!({"b": 1}))
    );
    assert_eq!(
        read_opcodes(b"(\x8c\x01x\x8c\x01y\x8c\x01zt"),
        Ok(json!([null, null, "z"]))
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
    assert!(read_opcodes(&opcodes).is_ok());
}

#[test]
fn objects_that_hold_themselves_come_to_an_end() {
    let mut list = b"]\x94(".to_vec();
    list.extend(b"h\x00".repeat(500_000));
    list.push(b'e');
    assert!(read_opcodes(&list).is_ok());

    let mut dict = b"]\x94(}\x94(".to_vec();
    dict.extend(b"NN".repeat(100_000));
    dict.push(b'u');
    dict.extend(b"h\x01".repeat(500_000));
    dict.push(b'e');
    assert!(read_opcodes(&dict).is_ok());
}

#[test]
fn depth_is_no_danger() {
    let mut opcodes = b"N".to_vec();
    opcodes.extend(b"\x85".repeat(900_000));
    assert!(read_opcodes(&opcodes).is_ok());
    let marks = b"(".repeat(1_000_000);
    assert!(read_opcodes(&marks).is_err());
}

#[test]
fn a_signature_is_its_dictionary() {
    // pickle.dumps(group(...)) by Celery 5.7, made short: the keywords of a group are its tasks, those of a task are private.
    let pickle = b"ccelery.canvas\nsignature\n((dS'task'\nS'celery.group'\nsS'kwargs'\n(dS'tasks'\n(lccelery.canvas\n\
signature\n((dS'task'\nS't'\nsS'kwargs'\n(dS'a'\nI1\nssS'options'\n(dS'task_id'\nS'x'\nsstRasstR.";
    let read = read(pickle).expect("a pickle");
    assert_eq!(
        read,
        serde_json::json!({"task": "celery.group", "kwargs": {"tasks": [{"task": "t", "options": {"task_id": "x"}}]}})
    );
}
