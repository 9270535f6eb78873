//! What must hold whatever bytes come? One function for each thing here that reads bytes of others; it panics where
//! what must hold does not.
//!
//! `make fuzz` looks for such bytes, `cargo test` replays those that are kept in `fuzz/corpus`. No build that serves
//! anybody has any of this: `fuzzing` is set by `fuzz/run` alone. What `conf` reads is in `bgproxy_conf::fuzz`.

mod control;
mod headers;
mod places;
mod proxy_header;
mod request;
// It shares nothing with us or with the libraries: that is what it is for.
#[path = "../tests/harness/strict.rs"]
mod strict;
mod websocket;
mod wire;

pub use crate::serve::pool::fuzz::answer;
pub use control::control;
pub use headers::headers;
pub use proxy_header::proxy_header;
pub use request::request;
pub use websocket::websocket;

/// Sizes of the pieces in which these bytes shall arrive as well: a few, the same ones each time. One byte at a time
/// only where that does not take long.
pub(crate) fn sizes(bytes: &[u8]) -> Vec<usize> {
    let sum = bytes.iter().fold(bytes.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let mut sizes = vec![2 + sum % 61];
    if bytes.len() <= 512 {
        sizes.push(1);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 6] = [
        ("answer", super::answer),
        ("control", super::control),
        ("headers", super::headers),
        ("proxy_header", super::proxy_header),
        ("request", super::request),
        ("websocket", super::websocket),
    ];

    fn home() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn names(dir: &str) -> BTreeSet<String> {
        let files = std::fs::read_dir(home().join(dir)).expect("a directory").flatten();
        files.filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned())).collect()
    }

    #[test]
    fn what_was_found_so_far_holds() {
        for (name, target) in TARGETS {
            let mut replayed = 0;
            for entry in std::fs::read_dir(home().join("corpus").join(name)).expect("a corpus").flatten() {
                let path = entry.path();
                let bytes = std::fs::read(&path).expect("a file of the corpus");
                if let Err(panic) = std::panic::catch_unwind(|| target(&bytes)) {
                    eprintln!("this was {}", path.display());
                    std::panic::resume_unwind(panic);
                }
                replayed += 1;
            }
            assert!(replayed > 0, "nothing to replay for {name}");
        }
    }

    #[test]
    fn each_target_has_its_program_and_its_corpus() {
        // These two are replayed where they are: in `conf`.
        let all: BTreeSet<String> =
            TARGETS.iter().map(|(name, _)| *name).chain(["config", "wire"]).map(str::to_owned).collect();
        assert_eq!(names("targets"), all);
        assert_eq!(names("corpus"), all);
    }
}
