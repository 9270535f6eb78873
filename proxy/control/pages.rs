//! What becomes of error pages on disk? They are in use from the start, each in the form in which its file was last of
//! use: one that is gone, or half of one, changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bgproxy_conf::{ConfigError, ErrorStatus, check};
use bytes::Bytes;

use super::watch::{self, Key, Seen, Watched};
use crate::pages::{Kind, Page, Pages};

/// Larger ones are refused: they are answers to what went wrong, and for the most part to nobody.
const LARGEST: usize = 64 * 1024;

/// Why a file is of no use as a page.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct Unusable {
    /// For which status it is wanted.
    pub status: ErrorStatus,
    path: PathBuf,
    what: String,
}

impl Unusable {
    /// The same as a fault of the configuration, at the line that names the file.
    pub fn in_config(&self, config: &Path) -> ConfigError {
        check::fault(config, &["error_pages", &self.status.to_string()], self.to_string(), self.hint())
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        "put a page there that bgproxy can read (at most 64 KiB of UTF-8, and JSON if its name says so), or leave the key out"
    }
}

/// The pages of the configuration in force.
#[derive(Debug, Default)]
pub struct PageFiles {
    wanted: BTreeMap<ErrorStatus, PathBuf>,
    /// What the files were last seen to be; statuses may share them.
    files: BTreeMap<PathBuf, Seen>,
    /// Each file as it was when it was last of use.
    texts: BTreeMap<PathBuf, Page>,
}

impl PageFiles {
    /// Reads the pages of a configuration.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub fn load(wanted: &BTreeMap<ErrorStatus, PathBuf>) -> Result<PageFiles, Unusable> {
        let mut new = PageFiles { wanted: wanted.clone(), ..PageFiles::default() };
        for (status, path) in wanted {
            let seen = new.files.entry(path.clone()).or_insert_with(|| watch::look(path, watch::What::Content));
            let page = read(path, seen).map_err(|what| Unusable { status: *status, path: path.clone(), what })?;
            new.texts.insert(path.clone(), page);
        }
        Ok(new)
    }

    /// The pages in use.
    pub fn pages(&self) -> Arc<Pages> {
        let page = |(status, path): (&ErrorStatus, &PathBuf)| Some((status.get(), self.texts.get(path)?.clone()));
        Arc::new(self.wanted.iter().filter_map(page).collect())
    }

    /// What must be watched.
    pub fn watched(&self) -> impl Iterator<Item = Watched> {
        self.files.iter().map(|(path, seen)| Watched {
            key: Key::Page(path.clone()),
            path: path.clone(),
            what: watch::What::Content,
            // Not another look: what came since the first one is news.
            seen: seen.clone(),
        })
    }

    /// A file is another one; in use when this returns.
    ///
    /// # Errors
    /// Why it is of no use: the old one stays in use.
    pub fn changed(&mut self, path: &Path, seen: Seen) -> Result<(), String> {
        // News of a file that has just been taken out of the configuration.
        let Some(known) = self.files.get_mut(path) else { return Ok(()) };
        *known = seen;
        let page = read(path, known)?;
        self.texts.insert(path.to_owned(), page);
        Ok(())
    }
}

fn read(path: &Path, seen: &Seen) -> Result<Page, String> {
    let bytes = match seen {
        Seen::Content(bytes) => bytes,
        Seen::Unreadable(why) => return Err(format!("it cannot be read ({why})")),
        Seen::Missing | Seen::Identity { .. } => return Err("there is no such file".to_owned()),
    };
    let kind = Kind::of(path).ok_or("its name does not say what kind of text it is")?;
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if bytes.len() > LARGEST {
        return Err(format!("it has {} bytes, and {LARGEST} are the most", bytes.len()));
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err("it is not UTF-8".to_owned());
    }
    if kind == Kind::Json
        && let Err(fault) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
    {
        return Err(format!("it is not JSON ({fault})"));
    }
    Ok(Page { kind, text: Bytes::copy_from_slice(bytes) })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn wanted(pages: &[(&str, &Path)]) -> BTreeMap<ErrorStatus, PathBuf> {
        pages.iter().map(|(status, path)| (status.parse().expect("a status"), path.to_path_buf())).collect()
    }

    fn text(files: &PageFiles, status: u16) -> Option<String> {
        let status = StatusCode::from_u16(status).expect("a status");
        files.pages().of(status).map(|page| String::from_utf8_lossy(&page.text).into_owned())
    }

    #[test]
    fn statuses_may_share_a_page_and_a_faulty_change_keeps_the_old_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sorry.html");
        std::fs::write(&path, "sorry").expect("written");
        let mut files = PageFiles::load(&wanted(&[("502", &path), ("503", &path)])).expect("pages");
        assert_eq!(files.watched().count(), 1);
        assert_eq!(
            (text(&files, 502), text(&files, 503), text(&files, 504)),
            (Some("sorry".into()), Some("sorry".into()), None)
        );
        for (seen, fault) in [
            (Seen::Missing, "there is no such file"),
            (Seen::Content(Vec::new()), "it is empty"),
            (Seen::Content(vec![0xff]), "it is not UTF-8"),
            (Seen::Content(vec![b'x'; 65_537]), "it has 65537 bytes, and 65536 are the most"),
            (Seen::Unreadable("why".into()), "it cannot be read (why)"),
        ] {
            assert_eq!(files.changed(&path, seen), Err(fault.to_owned()));
            assert_eq!(text(&files, 502).as_deref(), Some("sorry"));
        }
        files.changed(&path, Seen::Content(b"soon".to_vec())).expect("a page");
        assert_eq!(text(&files, 503).as_deref(), Some("soon"));
        files.changed(Path::new("/other.html"), Seen::Missing).expect("of no interest any more");
    }

    #[test]
    fn the_file_that_is_of_no_use_is_named_at_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let (config, page) = (dir.path().join("bgproxy.toml"), dir.path().join("502.json"));
        std::fs::write(&config, "[error_pages]\n503 = \"/x.html\"\n502 = \"/y.json\"\n").expect("written");
        std::fs::write(&page, "{").expect("written");
        let fault = PageFiles::load(&wanted(&[("502", &page)])).expect_err("not JSON");
        let shown = fault.in_config(&config);
        assert_eq!((shown.line(), shown.column()), (Some(3), Some(1)));
        assert!(shown.message().starts_with(&format!("{}: it is not JSON (", page.display())), "{shown}");
    }
}
