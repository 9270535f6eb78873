//! Pairs whose files change, one after the other and otherwise.

use super::*;
use crate::certificates::tests::{Authority, Pair as Pem};

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().expect("a directory"))
    }

    fn files(&self, name: &str) -> Files {
        Files { cert: self.0.path().join(format!("{name}.pem")), key: self.0.path().join(format!("{name}.key")) }
    }

    fn put(&self, name: &str, pair: &Pem) -> Files {
        let files = self.files(name);
        std::fs::write(&files.cert, &pair.cert).expect("written");
        std::fs::write(&files.key, &pair.key).expect("written");
        files
    }
}

fn text(text: &str) -> Seen {
    Seen::Content(text.as_bytes().to_vec())
}

fn names(pairs: &Pairs) -> Vec<Vec<String>> {
    pairs.status().into_iter().map(|status| status.names).collect()
}

fn used(files: &Files) -> Vec<Outcome> {
    vec![Outcome { cert: files.cert.clone(), fault: None }]
}

#[tokio::test(start_paused = true)]
async fn a_certificate_and_its_key_may_come_one_after_the_other_in_either_order() {
    let (dir, authority) = (Dir::new(), Authority::new());
    let files = dir.put("a", &authority.server(&["1.test"]));
    let mut pairs = Pairs::load(std::slice::from_ref(&files)).expect("a pair");
    let (second, third) = (authority.server(&["2.test"]), authority.server(&["3.test"]));

    assert_eq!(pairs.changed(&files.cert, text(&second.cert)), []);
    assert!(pairs.due().is_some() && names(&pairs) == [["1.test"]]);
    assert_eq!(pairs.changed(&files.key, text(&second.key)), used(&files));
    assert!(pairs.due().is_none() && names(&pairs) == [["2.test"]]);

    assert_eq!(pairs.changed(&files.key, text(&third.key)), []);
    assert_eq!(pairs.changed(&files.cert, text(&third.cert)), used(&files));
    assert_eq!(names(&pairs), [["3.test"]]);
}

#[tokio::test(start_paused = true)]
async fn files_that_do_not_come_to_fit_are_told_once_and_what_fitted_stays_in_use() {
    let (dir, authority) = (Dir::new(), Authority::new());
    let first = authority.server(&["1.test"]);
    let files = dir.put("a", &first);
    let mut pairs = Pairs::load(std::slice::from_ref(&files)).expect("a pair");
    let other = authority.server(&["2.test"]);

    assert_eq!(pairs.changed(&files.key, text(&other.key)), []);
    assert_eq!(pairs.complain(), []);
    tokio::time::advance(PATIENCE).await;
    let told = pairs.complain();
    let fault = told.first().and_then(|outcome| outcome.fault.clone()).expect("a fault");
    assert!(fault.starts_with(&format!("{}: the private key", files.key.display())), "{fault}");
    assert_eq!((pairs.status()[0].fault.as_ref(), names(&pairs)), (Some(&fault), vec![vec!["1.test".to_owned()]]));
    assert!(pairs.certificates().find(None).is_some());

    // The same fault again is no news, another one is.
    assert_eq!(pairs.changed(&files.key, text(&authority.server(&["3.test"]).key)), []);
    tokio::time::advance(PATIENCE).await;
    assert_eq!(pairs.complain(), []);
    assert_eq!(pairs.changed(&files.key, Seen::Missing), []);
    tokio::time::advance(PATIENCE).await;
    assert_eq!(pairs.complain().len(), 1);

    // What was there before is put back.
    assert_eq!(pairs.changed(&files.key, text(&first.key)), used(&files));
    assert_eq!((pairs.status()[0].fault.clone(), pairs.due()), (None, None));
}

#[test]
fn another_configuration_keeps_what_is_in_use_and_reads_the_rest() {
    let (dir, authority) = (Dir::new(), Authority::new());
    let a = dir.put("a", &authority.server(&["a.test"]));
    let mut pairs = Pairs::load(std::slice::from_ref(&a)).expect("a pair");
    // What is wrong with a file that is in use is no reason to refuse a configuration.
    std::fs::write(&a.cert, "nonsense").expect("written");
    let b = dir.put("b", &authority.server(&["b.test"]));
    let new = pairs.with(&[b.clone(), a.clone()]).expect("two pairs");
    assert_eq!(names(&pairs), [["a.test"]]);
    pairs.adopt(new);
    assert_eq!(names(&pairs), [["b.test"], ["a.test"]]);
    // It goes on from what was read, so that what changed since is news.
    let seen: Vec<Seen> = pairs.watched().filter(|one| one.path == a.cert).map(|one| one.seen).collect();
    assert!(matches!(&seen[..], [Seen::Content(bytes)] if bytes.starts_with(b"-----BEGIN")));

    let refused = pairs.with(&[a.clone(), dir.files("c")]).expect_err("no such file");
    assert_eq!(refused.to_string(), format!("{}: there is no such file", dir.files("c").cert.display()));
    let swapped = Files { cert: b.key.clone(), key: b.cert.clone() };
    let refused = pairs.with(&[swapped]).expect_err("no certificate");
    assert_eq!(refused.to_string(), format!("{}: there is no certificate in it", b.key.display()));
    assert_eq!(names(&pairs), [["b.test"], ["a.test"]]);
    // News about what is not there any more.
    pairs.adopt(pairs.with(std::slice::from_ref(&b)).expect("a pair"));
    assert_eq!(pairs.changed(&a.cert, Seen::Missing), []);
}

#[test]
fn one_file_may_hold_both_and_one_key_may_serve_two_certificates() {
    let (dir, authority) = (Dir::new(), Authority::new());
    let (first, second) = (authority.server(&["1.test"]), authority.server(&["2.test"]));
    let path = dir.0.path().join("both.pem");
    let both = |pair: &Pem| format!("{}{}", pair.key, pair.cert);
    std::fs::write(&path, both(&first)).expect("written");
    let files = Files { cert: path.clone(), key: path.clone() };
    let mut pairs = Pairs::load(std::slice::from_ref(&files)).expect("a pair");
    assert_eq!(pairs.watched().count(), 1);
    assert_eq!(pairs.changed(&path, text(&both(&second))), used(&files));
    assert_eq!(names(&pairs), [["2.test"]]);
}

#[test]
fn days_are_whole_and_negative_once_it_has_expired() {
    assert_eq!(days_left(10 * DAY, 0), 10);
    assert_eq!(days_left(10 * DAY - 1, 0), 9);
    assert_eq!(days_left(5, 5), 0);
    assert_eq!(days_left(5, 6), -1);
    assert_eq!(days_left(0, DAY), -2);
    assert_eq!(written(u64::MAX), "9999-12-31T23:59:59Z");
}
