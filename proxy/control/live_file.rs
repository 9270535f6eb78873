//! What does a service's live file say, and how is it written? One line: a color's name.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bgproxy_conf::Color;

use super::watch::Seen;

/// What a look at a live file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// There is none.
    Missing,
    /// It names this color; with its text.
    Names(Color, String),
    /// It is of no use, and why.
    Nonsense(String),
}

/// What this look means.
pub fn read(seen: &Seen) -> Meaning {
    match seen {
        Seen::Missing => Meaning::Missing,
        Seen::Unreadable(fault) => Meaning::Nonsense(format!("cannot be read: {fault}")),
        Seen::Identity { .. } => Meaning::Nonsense("is not a file".to_owned()),
        Seen::Content(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let shown: String = text.chars().take(40).collect();
            match Color::try_from(text.trim().to_owned()) {
                Ok(color) => Meaning::Names(color, text.into_owned()),
                Err(_invalid) => Meaning::Nonsense(format!("holds no color's name but {shown:?}")),
            }
        }
    }
}

/// Writes a color's name, by rename, so that a script never reads half of it. Gives back the text.
///
/// # Errors
/// The kernel's.
pub fn write(path: &Path, color: &Color) -> io::Result<String> {
    let text = format!("{color}\n");
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".{}.new", std::process::id()));
    let written = fs::File::create(&temp).and_then(|mut file| file.write_all(text.as_bytes()));
    let renamed = written.and_then(|()| fs::rename(&temp, path));
    if renamed.is_err() {
        // The first error is the one to tell.
        let _gone = fs::remove_file(&temp);
    }
    renamed.map(|()| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_name_with_or_without_white_space() {
        let green = Color::green();
        for text in ["green", "green\n", " green \r\n"] {
            let seen = Seen::Content(text.as_bytes().to_vec());
            assert_eq!(read(&seen), Meaning::Names(green.clone(), text.to_owned()));
        }
        for text in ["", "\n", "green blue", "Green", "gr\u{fc}n", "../etc", "\0"] {
            let seen = Seen::Content(text.as_bytes().to_vec());
            assert!(matches!(read(&seen), Meaning::Nonsense(_)), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("live");
        let text = write(&path, &Color::green()).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), text);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        assert!(write(&dir.path().join("none/live"), &Color::green()).is_err());
    }
}
