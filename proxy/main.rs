//! `bgproxy`: arguments, logging, exit code.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bgproxy::control::report::About;
use bgproxy::demo::{self, Ports};
use bgproxy::{Hint, Options, VERSION};
use bgproxy_conf::{Color, Config, ConfigError, DEFAULT_PATH, Log, LogFormat};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// The blue/green front door: forwards HTTP to the live color's socket and switches color without losing a request.
#[derive(Debug, Parser)]
#[command(name = "bgproxy", version = VERSION, after_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Verb>,
    /// Configuration file [default: /etc/bgproxy/bgproxy.toml; where that does not exist, the built-in one]
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    run: Run,
}

const HELP: &str = "\
While it runs, `bgctl` talks to it: `bgctl status`, `bgctl switch green`, `bgctl --help`.
SIGHUP reads the configuration again; SIGTERM and SIGINT finish what is in flight, a second one ends at once.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Open the door (also without a verb)
    Run(Run),
    /// Check a configuration file and say what is wrong where
    Check,
    /// Try it: two embedded colored backends behind a door on 127.0.0.1
    Demo(Demo),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
}

#[derive(Debug, Clone, clap::Args)]
struct Run {
    /// Take this color for live, whatever the state files say: for when they cannot be read any more
    #[arg(long, value_name = "COLOR")]
    assume_live: Option<Color>,
}

#[derive(Debug, Clone, clap::Args)]
struct Demo {
    /// Port of the door on 127.0.0.1 (0 takes a free one)
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Port of the status page on 127.0.0.1 (0 takes a free one)
    #[arg(long, value_name = "PORT", default_value_t = 9180)]
    admin_port: u16,
    /// Speak TLS, with a certificate made for this; the door's other port then leads there
    #[arg(long)]
    tls: bool,
    /// Port of the door for TLS on 127.0.0.1 (0 takes a free one)
    #[arg(long, value_name = "PORT", default_value_t = 8443, requires = "tls")]
    tls_port: u16,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // The last words, when even standard error is gone.
            let _unheard = writeln!(std::io::stderr(), "{}", tell(&error).trim_end());
            ExitCode::FAILURE
        }
    }
}

/// What is wrong, why, and what to do.
fn tell(error: &anyhow::Error) -> String {
    match error.downcast_ref::<ConfigError>() {
        // It has a form of its own, with the line and the spot.
        Some(fault) if paints(&std::io::stderr()) => return fault.colored(),
        Some(fault) => return fault.to_string(),
        None => {}
    }
    let hint = error.downcast_ref::<Hint>();
    // The hint was put around the error, and is told after it.
    let causes: Vec<String> = error.chain().skip(usize::from(hint.is_some())).map(ToString::to_string).collect();
    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("error: {}{hint}", causes.join(": "))
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, config, run } = arguments;
    if run.assume_live.is_some() && command.is_some() {
        anyhow::bail!("`--assume-live` goes behind `run`, and with nothing else");
    }
    match command.unwrap_or(Verb::Run(run)) {
        Verb::Run(Run { assume_live }) => {
            let (config, config_path) = load(config)?;
            start_logging(&config.log)?;
            let opened = Box::new(|_: &About| {});
            bgproxy::run(Options { config, config_path, assume_live, named: bgproxy::run::key, opened })
        }
        Verb::Check => {
            let (config, path) = load(config)?;
            filter(&config.log)?;
            bgproxy::run::check(&config, path.as_deref())?;
            let path = path.as_deref().map_or("the built-in configuration".into(), Path::to_string_lossy);
            let services: Vec<String> = config.service.keys().map(|name| format!("`{name}`")).collect();
            print(&format!("{path} is fine: it serves {}\n", services.join(", ")))
        }
        Verb::Demo(Demo { port, admin_port, tls, tls_port }) => {
            if config.is_some() {
                anyhow::bail!("the demo has a configuration of its own: leave out `--config`");
            }
            demo(Ports { door: port, tls: tls.then_some(tls_port), admin: admin_port })
        }
        Verb::Schema => print(&format!("{:#}\n", Config::schema())),
    }
}

/// Two backends, the door before them, and what to try on the terminal.
fn demo(ports: Ports) -> anyhow::Result<ExitCode> {
    let home = demo::Home::create()?;
    let backends = demo::Demo::start(home.path())?;
    let config = demo::config(home.path(), ports)?;
    start_logging(&config.log)?;
    let welcomed = config.clone();
    let opened = Box::new(move |about: &About| {
        // A closed terminal does not end the demo.
        let _unheard = print(&demo::welcome(&welcomed, &about.listen, &about.admin));
    });
    let ended = bgproxy::run(Options { config, config_path: None, assume_live: None, named: demo::flag, opened });
    backends.stop();
    ended
}

/// The file that was named, the default one, or the built-in configuration.
fn load(path: Option<PathBuf>) -> anyhow::Result<(Config, Option<PathBuf>)> {
    match path {
        Some(path) => Ok((Config::load(&path)?, Some(path))),
        None if Path::new(DEFAULT_PATH).exists() => {
            Ok((Config::load(Path::new(DEFAULT_PATH))?, Some(DEFAULT_PATH.into())))
        }
        None => Ok((Config::default(), None)),
    }
}

fn filter(log: &Log) -> anyhow::Result<EnvFilter> {
    let (level, what) = match std::env::var("BGPROXY_LOG") {
        Ok(level) => (level.clone(), format!("BGPROXY_LOG={level}")),
        Err(_unset) => (log.level.clone(), format!("`log.level = {:?}`", log.level)),
    };
    // The file's has been checked with everything else in it, the environment's has not.
    if bgproxy_conf::check::is_no_level(&level) {
        anyhow::bail!("{what} is no log filter: there is no such level");
    }
    let filter = match level.trim().to_ascii_lowercase().as_str() {
        // As if nobody had said anything: an empty filter would let nothing pass, not even the loss of data.
        "" => "info".to_owned(),
        // Of ourselves: the libraries would write a line for each frame that passes.
        finest @ ("debug" | "trace") => format!("info,bgproxy={finest}"),
        _ => level.trim().to_owned(),
    };
    // h2 warns of each PING that confirms none, which whoever wants our disk full can send. What says more of it comes
    // behind, and counts.
    let filter = format!("h2=error,{filter}");
    EnvFilter::try_new(filter).with_context(|| format!("{what} is no log filter"))
}

fn start_logging(log: &Log) -> anyhow::Result<()> {
    // Its own complaint about a log that takes no more (a full disk, a closed pipe) would go to the same place, and the
    // failure of that is a panic.
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter(log)?).with_writer(std::io::stderr).log_internal_errors(false);
    match log.format {
        LogFormat::Plain => {
            subscriber.with_ansi(paints(&std::io::stderr())).with_target(false).init();
        }
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}

fn paints(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    let result = std::io::stdout().write_all(text.as_bytes());
    match result {
        // `bgproxy schema | head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS).context("cannot write to standard output"),
    }
}
