use super::*;

#[test]
fn urls() {
    assert_eq!(parse("mqtt://a:1"), Some((false, "a".to_owned(), 1)));
    assert_eq!(parse("mqtts://b.example"), Some((true, "b.example".to_owned(), 8883)));
    assert_eq!(parse("mqtt://[::1]:1884/"), Some((false, "::1".to_owned(), 1884)));
    for bad in ["", "a:1", "http://a", "mqtt://", "mqtt://a:x", "mqtt://u:p@a:1", "mqtt://[::1", "mqtt://a/b"]
    {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

#[test]
fn delays_are_bounded() {
    for failures in [0, 1, 5, 1000] {
        assert!(jitter(failures) <= LONGEST_DELAY);
    }
    assert!(jitter(0) <= FIRST_DELAY);
}
