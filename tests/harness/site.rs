//! The whole of it: two real applications and a door before them.

use tempfile::TempDir;

use super::door::Builder;
use super::raw::{Raw, request};
use super::{App, Door, Fake, Kind, Load, temp_dir};

/// What most tests start with.
pub(crate) struct Site {
    // In the order they end: the door first.
    pub(crate) door: Door,
    pub(crate) blue: App,
    pub(crate) green: App,
    _dir: TempDir,
}

impl Site {
    /// Blue is live.
    #[track_caller]
    pub(crate) fn start() -> Site {
        Site::start_with(|door| door)
    }

    /// The same, with a door to which something has been done, such as `.set("service.portal.drain.deadline", "1s")`.
    #[track_caller]
    pub(crate) fn start_with(change: impl FnOnce(Builder) -> Builder) -> Site {
        let dir = temp_dir();
        let blue = App::start(dir.path(), "blue");
        let green = App::start(dir.path(), "green");
        let door = Door::builder().color("blue", blue.socket()).color("green", green.socket());
        Site { door: change(door).start(), blue, green, _dir: dir }
    }

    pub(crate) fn app(&mut self, color: &str) -> &mut App {
        match color {
            "blue" => &mut self.blue,
            "green" => &mut self.green,
            other => panic!("no color {other:?}"),
        }
    }

    /// Many clients of the door that send all kinds of requests.
    pub(crate) fn load(&self, connections: usize) -> Load {
        Load::start(self.door.addr(), connections, Kind::mixed())
    }
}

/// A door before two scripted backends: for what is about the door alone, and quick to start.
pub(crate) struct Pair {
    // In the order they end: the door first.
    pub(crate) door: Door,
    pub(crate) blue: Fake,
    pub(crate) green: Fake,
    pub(crate) dir: TempDir,
}

impl Pair {
    /// Blue is live; both are a [`Fake::color`].
    #[track_caller]
    pub(crate) fn start() -> Pair {
        Pair::start_with(|door| door)
    }

    /// The same, with a door to which something has been done.
    #[track_caller]
    pub(crate) fn start_with(change: impl FnOnce(Builder) -> Builder) -> Pair {
        let dir = temp_dir();
        let blue = Fake::color(dir.path().join("blue"), "blue");
        let green = Fake::color(dir.path().join("green"), "green");
        let door = change(Door::builder().fakes(&blue, &green)).start();
        Pair { door, blue, green, dir }
    }

    /// The color that answers now.
    #[track_caller]
    pub(crate) fn answers(&self) -> String {
        self.door.get("/").color().unwrap_or("nobody").to_owned()
    }

    /// A request that its backend has, and does not answer before [`Fake::go`].
    #[track_caller]
    pub(crate) fn hold(&self, target: &str) -> Raw {
        let mut held = self.door.connect();
        held.send(request("GET", target, &[], b""));
        let (blue, green) = (&self.blue, &self.green);
        if self.door.live() == "blue" {
            blue.wait_target(target)
        } else {
            green.wait_target(target)
        }
        held
    }
}
