//! The command line: every verb and option of `bgctl`, and the help that operators read.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bgproxy_conf::{Color, DEFAULT_PATH, ServiceName};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};

/// The control socket of a daemon whose configuration does not say otherwise.
const DEFAULT_SOCKET: &str = "/run/bgproxy/control.sock";

const AFTER_HELP: &str = "\
Examples:
  bgctl status                  who is live, who is ready, what is in flight
  bgctl prepare green           wait until green is ready, then let testers reach it
  bgctl switch green            make green live, wait until blue has drained
  bgctl wait-idle blue          returns when blue's container may be stopped
  bgctl rollback                make the color live that was live before

Exit codes:
  0  done
  1  refused or failed; the answer is no
  2  the command line is wrong
  3  the daemon cannot be reached, or went away before it answered
  4  the deadline passed (--timeout, --within)";

/// Tells bgproxy which color is live, and shows what it does.
#[derive(Debug, Parser)]
#[command(name = "bgctl", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Options that every verb takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct Global {
    /// The service meant; may be left out when there is only one
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) service: Option<ServiceName>,

    /// Print exactly what the daemon answered: JSON, for scripts
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// The daemon's control socket
    #[arg(
        long, global = true, value_name = "PATH", env = "BGCTL_SOCKET", default_value = DEFAULT_SOCKET,
        value_parser = OsStringValueParser::new().map(socket)
    )]
    pub(crate) socket: PathBuf,

    /// Give up after this long, such as 90s or 5m, with exit code 4 [default: the daemon's own deadlines]
    #[arg(long, global = true, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// An empty BGCTL_SOCKET is one that is not set.
fn socket(text: OsString) -> PathBuf {
    if text.is_empty() { DEFAULT_SOCKET.into() } else { text.into() }
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show who is live, who is ready and what is in flight
    #[command(after_help = "\
Examples:
  bgctl status
  bgctl status --watch                              redrawn every second, Ctrl-C ends it
  bgctl status --json | jq -r .services.portal.live")]
    Status {
        /// Redraw every second, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
    },

    /// Make COLOR live, then wait until the old color has drained
    #[command(long_about = "\
Make COLOR live, then wait until the old color has drained.

The daemon asks COLOR whether it is ready, and refuses if it is not. Once it says `COLOR is live`, no new request \
reaches the old color. Requests in flight there may finish, up to the service's drain deadline; a request \
that has no answer then is cut, and the receipt lists it; an answer that has begun goes on, as a stream. A switch that cut \
requests is still done: exit code 0. A switch to the color that is live already changes nothing: exit code 0.")]
    #[command(after_help = "\
Examples:
  bgctl switch green
  bgctl switch green --no-wait                      do not wait for the drain
  bgctl switch green --expect-live blue             refuse if somebody else switched first
  bgctl -s portal switch green                      where there are several services")]
    Switch {
        /// The color that shall serve everybody
        color: Color,
        #[command(flatten)]
        change: Change,
    },

    /// Make the color live again that was live before
    #[command(long_about = "\
Make the color live again that was live before the last switch.

It is a switch: the color is asked whether it is ready (unless --force), and what is in flight on the color that is \
live now drains.")]
    #[command(after_help = "\
Examples:
  bgctl rollback
  bgctl rollback --force                            even if the old color does not say it is ready")]
    Rollback {
        #[command(flatten)]
        change: Change,
    },

    /// Wait until COLOR is ready, then let testers reach it as the preview
    #[command(after_help = "\
Examples:
  bgctl prepare green                               after its container was started
  bgctl prepare green --within 2m                   for an application that starts slowly
  bgctl prepare blue                                blue is live: ends the preview of green")]
    Prepare {
        /// The color that testers shall reach
        color: Color,
        /// How long it may take to become ready; then exit code 4
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "30s")]
        within: Duration,
    },

    /// Wait until COLOR may be stopped: neither live nor preview, no request, no stream
    #[command(long_about = "\
Wait until COLOR may be stopped: it is neither live nor preview, and has no request and no stream (tunnel, event \
stream, or download that outlived the drain) left.

Exit code 0 says so; anything else means: do not stop it. The live color and the preview color are refused at once, \
for waiting does not make them idle.")]
    #[command(after_help = "\
Examples:
  bgctl wait-idle blue && docker stop portal-blue
  bgctl wait-idle blue --timeout 10m                long streams: exit code 4 if they last longer
  bgctl close-streams blue --over 10s               ends them sooner")]
    WaitIdle {
        /// The color that shall be stopped
        color: Color,
    },

    /// End the streams that are open on COLOR, one by one
    #[command(long_about = "\
End the streams that are open on COLOR, one by one, the oldest first.

A switch does so by itself: streams on the old color keep running for the service's `streams.keep` and are then ended \
over `streams.spread`. This ends them sooner, and works for every color. Clients that come back are served by the live \
color.

Streams are tunnels (websockets), event streams, and downloads that outlived the drain's deadline. The first two end in \
an orderly way, downloads break off.")]
    #[command(after_help = "\
Examples:
  bgctl close-streams blue                          over the service's `streams.spread`
  bgctl close-streams blue --over 10s && bgctl wait-idle blue")]
    CloseStreams {
        /// The color whose streams shall end
        color: Color,
        /// Evenly over this long, as far as `streams.per_second` allows [default: the service's `streams.spread`]
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        over: Option<Duration>,
    },

    /// Exit with 0 if COLOR is live and with 1 if not, in silence
    #[command(after_help = "\
Examples:
  bgctl is-live green && run-the-nightly-job        in green's crontab: only the live color runs it")]
    IsLive {
        /// The color asked about
        color: Color,
        /// Say on standard error which color is live
        #[arg(short, long)]
        verbose: bool,
    },

    /// Ask COLOR once whether it is ready: exit code 0 if it is, 1 if not
    #[command(after_help = "\
Examples:
  bgctl probe green                                 what a switch would find, without switching")]
    Probe {
        /// The color to ask
        color: Color,
    },

    /// Print what happens, one line per event, until Ctrl-C
    #[command(long_about = "\
Print what happens, one line per event, until Ctrl-C: switches, drains, readiness, reloads.

When the daemon restarts, bgctl connects again and goes on with the event after the last one it printed.")]
    #[command(after_help = "\
Examples:
  bgctl events
  bgctl events --json | jq 'select(.kind == \"switched\")'")]
    Events,

    /// List past switches and their receipts, newest first
    #[command(after_help = "\
Examples:
  bgctl history
  bgctl history --json | jq '.entries[0].receipt.cut'")]
    History,

    /// Read the configuration file again; a faulty one changes nothing
    #[command(after_help = "\
Examples:
  bgctl check && bgctl reload")]
    Reload,

    /// Check a configuration file, here and without the daemon
    #[command(after_help = "\
Examples:
  bgctl check
  bgctl check ./bgproxy.toml")]
    Check {
        /// The file
        #[arg(default_value = DEFAULT_PATH)]
        file: PathBuf,
    },

    /// Print the completion script of a shell
    #[command(after_help = "\
Examples:
  bgctl completions bash > /etc/bash_completion.d/bgctl
  bgctl completions zsh > /usr/local/share/zsh/site-functions/_bgctl
  bgctl completions fish > ~/.config/fish/completions/bgctl.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What `switch` and `rollback` have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    /// Do not ask the color whether it is ready
    #[arg(long)]
    pub(crate) force: bool,

    /// Return as soon as the color is live, while the old one still drains
    #[arg(long)]
    pub(crate) no_wait: bool,

    /// Refuse unless this color is live now
    #[arg(long, value_name = "COLOR")]
    pub(crate) expect_live: Option<Color>,

    /// Refuse unless this is the service's generation (`bgctl status` shows it)
    #[arg(long, value_name = "NUMBER")]
    pub(crate) expect_generation: Option<u64>,
}

impl Verb {
    /// The color that was typed, to find what was meant if the daemon does not know it.
    pub(crate) fn color(&self) -> Option<&Color> {
        match self {
            Verb::Switch { color, .. }
            | Verb::Prepare { color, .. }
            | Verb::WaitIdle { color }
            | Verb::CloseStreams { color, .. }
            | Verb::IsLive { color, .. }
            | Verb::Probe { color } => Some(color),
            _ => None,
        }
    }

    /// Whether a deadline may pass while the daemon still carries out what was asked.
    pub(crate) fn mutates(&self) -> bool {
        matches!(
            self,
            Verb::Switch { .. }
                | Verb::Rollback { .. }
                | Verb::Prepare { .. }
                | Verb::CloseStreams { .. }
                | Verb::Reload
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_default_socket_is_the_daemons() {
        assert_eq!(bgproxy_conf::Control::default().socket, PathBuf::from(DEFAULT_SOCKET));
    }
}
