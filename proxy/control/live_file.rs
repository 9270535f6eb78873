//! What does a service's live file say, and how is it written? One line: a color's name.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bgproxy_conf::Color;

use super::switchboard::Entry;
use super::watch::{self, Seen};
use crate::harden;

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

/// What follows from a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Nothing.
    Nothing,
    /// Nothing: it says what is live.
    Rest,
    /// Write what is live into it.
    Write,
    /// Switch to this color; with the file's text.
    Switch(Color, String),
    /// Tell that it is of no use, and why.
    Complain(String),
}

/// Tells a command in one live file from our own writing. Pure: it is told what was seen.
///
/// The record's `file_seen` is what the file said when we last wrote it or did what it asked. Texts are compared by
/// the color they name: white space is no command.
#[derive(Debug, Default, Clone)]
pub struct Reader {
    /// The text that was last taken for a command, done or refused.
    answered: Option<String>,
    /// A text that nobody has answered yet, seen by the round before.
    overlooked: Option<String>,
}

impl Reader {
    /// At start, or when the file is new to us: another text than the one we know is a command given meanwhile.
    pub fn begin(&mut self, entry: &Entry, now: Meaning) -> Todo {
        match &now {
            Meaning::Names(color, _) if is_known(entry, color) => match *color == entry.record.live {
                true => Todo::Rest,
                // As we left it: a crash came between the switch and the file.
                false => Todo::Write,
            },
            _ => self.says(entry, now),
        }
    }

    /// The watcher saw `said`; `now` is what is there when its news is read.
    pub fn changed(&mut self, entry: &Entry, said: &Meaning, now: Meaning) -> Todo {
        match &now {
            // Old news: it may even be what we wrote ourselves, one switch ago. What is there now is news of its own,
            // and should it be gone before the watcher looks, a round sees what is left.
            _ if now != *said => Todo::Nothing,
            // A round, or the look at start, was faster: it is being carried out.
            Meaning::Names(_, text) if entry.pending.is_some() && self.answered.as_ref() == Some(text) => Todo::Nothing,
            Meaning::Names(color, _) if is_known(entry, color) => match *color == entry.record.live {
                true => Todo::Rest,
                false => Todo::Nothing,
            },
            _ => self.says(entry, now),
        }
    }

    /// A look without any news, again and again. Finds what a failed write left behind, and what the watcher cannot
    /// see: a text that is the same as the last one it saw, with ours for a moment in between.
    pub fn round(&mut self, entry: &Entry, now: Meaning) -> Todo {
        let overlooked = self.overlooked.take();
        match now {
            _ if entry.pending.is_some() => Todo::Nothing,
            Meaning::Missing => Todo::Write,
            Meaning::Nonsense(_) => Todo::Nothing,
            Meaning::Names(color, text) if is_known(entry, &color) || self.answered.as_ref() == Some(&text) => {
                if color == entry.record.live { Todo::Rest } else { Todo::Write }
            }
            // Seen by two rounds, it is whole, and the watcher had its time.
            Meaning::Names(_, ref text) if overlooked.as_ref() == Some(text) => self.says(entry, now),
            Meaning::Names(_, text) => {
                self.overlooked = Some(text);
                Todo::Nothing
            }
        }
    }

    /// Whether `color` may be written over what is there: not over a command that nobody has read yet.
    pub fn may_write(&self, entry: &Entry, color: &Color, now: &Meaning) -> bool {
        match now {
            Meaning::Names(other, text) => {
                other == color
                    || !entry.colors.contains(other)
                    || is_known(entry, other)
                    || self.answered.as_ref() == Some(text)
            }
            Meaning::Missing | Meaning::Nonsense(_) => true,
        }
    }

    /// We have written the file.
    pub fn wrote(&mut self) {
        *self = Reader::default();
    }

    fn says(&mut self, entry: &Entry, meaning: Meaning) -> Todo {
        match meaning {
            Meaning::Missing => Todo::Write,
            Meaning::Nonsense(fault) => Todo::Complain(fault),
            Meaning::Names(color, _) if !entry.colors.contains(&color) => {
                Todo::Complain(format!("names `{color}`, which is no color of this service"))
            }
            Meaning::Names(color, text) => {
                self.answered = Some(text.clone());
                Todo::Switch(color, text)
            }
        }
    }
}

fn is_known(entry: &Entry, color: &Color) -> bool {
    entry.record.file_seen.as_ref().is_some_and(|text| text.trim() == color.as_str())
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

/// The file's text, if it names a color.
pub fn text(path: &Path) -> Option<String> {
    match look(path) {
        Meaning::Names(_, text) => Some(text),
        Meaning::Missing | Meaning::Nonsense(_) => None,
    }
}

/// What a look at it now means.
pub fn look(path: &Path) -> Meaning {
    read(&watch::look(path, watch::What::Content))
}

/// Writes a color's name, by rename, so that a script never reads half of it. Gives back the text. The file keeps its
/// mode: whoever may command by it may do so after a switch as well.
///
/// # Errors
/// The kernel's.
pub fn write(path: &Path, color: &Color) -> io::Result<String> {
    let text = format!("{color}\n");
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".{}.new", std::process::id()));
    let mode = fs::metadata(path).map(|before| before.permissions());
    let written = fs::File::create(&temp).and_then(|mut file| {
        // Scripts of other users may read what is live, unless somebody has said otherwise.
        file.set_permissions(mode.unwrap_or_else(|_new| harden::permissions(0o644)))?;
        file.write_all(text.as_bytes())
    });
    let renamed = written.and_then(|()| fs::rename(&temp, path));
    if renamed.is_err() {
        // The first error is the one to tell.
        let _gone = fs::remove_file(&temp);
    }
    renamed.map(|()| text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bgproxy_conf::wire::Action;

    use super::super::state::Record;
    use super::super::switchboard::{Board, Command, Event};
    use super::*;

    /// Blue is live, and the file was last seen to say so.
    fn entry() -> Entry {
        let blue = Color::blue();
        let file_seen = Some("blue\n".to_owned());
        let record =
            Record { generation: 1, live: blue.clone(), preview: blue, previous: None, file_seen, history: vec![] };
        Entry::new(vec![Color::blue(), Color::green()], record)
    }

    fn command(text: &str) -> Command {
        Command {
            action: Action::Switch,
            to: Some(text.trim().parse().expect("a color")),
            force: false,
            expect_live: None,
            expect_generation: None,
            by: "live file".to_owned(),
            at: String::new(),
            file: Some(text.to_owned()),
        }
    }

    fn says(text: &str) -> Meaning {
        read(&Seen::Content(text.as_bytes().to_vec()))
    }

    fn switch(text: &str) -> Todo {
        Todo::Switch(text.trim().parse().expect("a color"), text.to_owned())
    }

    #[test]
    fn another_color_is_a_command_and_ours_is_none() {
        let mut reader = Reader::default();
        assert_eq!(reader.changed(&entry(), &says("green"), says("green")), switch("green"));
        assert_eq!(reader.changed(&entry(), &says("blue"), says("blue")), Todo::Rest);
        assert_eq!(reader.changed(&entry(), &Meaning::Missing, Meaning::Missing), Todo::Write);
        assert!(matches!(reader.changed(&entry(), &says("?"), says("?")), Todo::Complain(_)));
        assert!(matches!(reader.changed(&entry(), &says("pink"), says("pink")), Todo::Complain(_)));
    }

    /// The watcher's news of what we wrote after a switch was read after the switch back, and switched again.
    #[test]
    fn old_news_of_our_own_writing_is_no_command() {
        let mut reader = Reader::default();
        assert_eq!(reader.changed(&entry(), &says("green\n"), says("blue\n")), Todo::Nothing);
        assert_eq!(reader.changed(&entry(), &says("green\n"), says("?")), Todo::Nothing);
    }

    /// Script writes green, we write blue, script writes green: the watcher, late, sees no difference.
    #[test]
    fn a_command_that_the_watcher_cannot_see_is_found_by_the_second_round() {
        let mut reader = Reader::default();
        assert_eq!(reader.round(&entry(), says("green\n")), Todo::Nothing, "it may be half written");
        assert_eq!(reader.round(&entry(), says("green\n")), switch("green\n"));
        // The watcher's news of it, late.
        let mut board = Board { services: BTreeMap::from([("portal".parse().expect("a name"), entry())]) };
        board.step(Event::Commanded(1, "portal".parse().expect("a name"), command("green\n")));
        let busy = board.services.values().next().expect("the service");
        assert_eq!(reader.changed(busy, &says("green\n"), says("green\n")), Todo::Nothing);
        assert_eq!(reader.changed(busy, &says("green"), says("green")), switch("green"), "another writing");
        let mut reader = Reader { answered: Some("green\n".to_owned()), overlooked: None };
        // Answered, and still there: it could not be written over.
        assert_eq!(reader.round(&entry(), says("green\n")), Todo::Write);
        assert_eq!(reader.round(&entry(), says("blue\n")), Todo::Rest);
    }

    #[test]
    fn a_round_writes_what_could_not_be_written_before() {
        let mut switched = entry();
        switched.record.live = Color::green();
        let mut reader = Reader::default();
        assert_eq!(reader.round(&switched, says("blue\n")), Todo::Write);
        assert_eq!(reader.round(&switched, Meaning::Missing), Todo::Write);
        assert_eq!(reader.round(&switched, says("?")), Todo::Nothing);
    }

    #[test]
    fn at_start_what_we_know_is_written_over_and_what_we_do_not_know_is_a_command() {
        let mut switched = entry();
        switched.record.live = Color::green();
        assert_eq!(Reader::default().begin(&switched, says("blue\n")), Todo::Write);
        assert_eq!(Reader::default().begin(&switched, says(" blue")), Todo::Write, "white space is no command");
        assert_eq!(Reader::default().begin(&entry(), says("green\n")), switch("green\n"));
        assert_eq!(Reader::default().begin(&entry(), Meaning::Missing), Todo::Write);
    }

    /// A script wrote while a switch was being carried out, and our writing after it took the command away unread.
    #[test]
    fn a_command_that_nobody_has_read_is_not_written_over() {
        let (blue, green) = (Color::blue(), Color::green());
        let mut reader = Reader::default();
        assert!(!reader.may_write(&entry(), &blue, &says("green\n")));
        assert!(reader.may_write(&entry(), &green, &says("green\n")));
        assert!(reader.may_write(&entry(), &green, &says("blue\n")), "known");
        assert!(reader.may_write(&entry(), &blue, &says("pink")) && reader.may_write(&entry(), &blue, &says("")));
        reader.changed(&entry(), &says("green\n"), says("green\n"));
        assert!(reader.may_write(&entry(), &blue, &says("green\n")), "answered");
        reader.wrote();
        assert!(!reader.may_write(&entry(), &blue, &says("green\n")), "somebody asks again");
    }

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

    /// A group that could write `green` into it could do so once.
    #[test]
    fn the_file_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("live");
        let mode = || fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        write(&path, &Color::green()).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).expect("changed");
        write(&path, &Color::blue()).expect("written");
        assert_eq!(mode(), 0o664);
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
