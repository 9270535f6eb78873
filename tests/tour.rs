//! The README's tour: pasted as it stands, it prints what the README says.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::demo::{address, demo};
use crate::harness::{Output, temp_dir, text_of, tools};

/// A block of the tour: what is pasted, and what is printed.
struct Step {
    paste: String,
    prints: Option<String>,
}

#[test]
fn the_tour_prints_what_the_readme_says() {
    let steps = steps(&text_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")));
    assert!(steps.iter().filter(|step| step.prints.is_some()).count() >= 5, "the README has lost its tour");
    let dir = temp_dir();
    let home = dir.path().to_str().expect("a readable path");
    let bin = tools::bgproxy().parent().expect("a directory").display().to_string();

    let (mut demo, printed) = demo(dir.path(), &[]);
    let door = address(&printed, "the door").expect("an address");
    let admin = address(&printed, "the status page").expect("an address");

    // What differs here: the ports, where the binaries are, and where the demo keeps its socket.
    let here = |text: &str| {
        text.replace("127.0.0.1:8080", &door)
            .replace("127.0.0.1:9180", &admin)
            .replace("cargo build --release", "true")
            .replace("$PWD/target/release", &bin)
            .replace("/tmp/bgproxy-demo-", &format!("{home}/bgproxy-demo-"))
    };
    let script = dir.path().join("tour.sh");
    let marked = steps.iter().map(|step| format!("{}echo '{MARK}'\n", here(&step.paste)));
    fs::write(&script, format!("exec 2>&1\n{}", marked.collect::<String>())).expect("written");
    let output = Output::of(Command::new("bash").arg(&script).env("TMPDIR", home), dir.path()).ok();

    let printed: Vec<&str> = output.stdout.split(&format!("{MARK}\n")).collect();
    assert_eq!(printed.len(), steps.len() + 1, "{}", output.stdout);
    for (step, printed) in steps.iter().zip(printed) {
        let said = here(step.prints.as_deref().unwrap_or_default());
        assert!(fits(&said, printed), "pasted:\n{}\nthe README says:\n{said}\nit printed:\n{printed}", step.paste);
    }
    let status = demo.terminate();
    assert!(status.success(), "{status}");
}

const MARK: &str = "--- end of a step ---";

/// The fenced blocks of the section `Tour`.
fn steps(readme: &str) -> Vec<Step> {
    let section = readme.split_once("\n## Tour\n").expect("a tour").1;
    let section = section.split_once("\n## ").map_or(section, |(tour, _)| tour);
    let mut steps: Vec<Step> = Vec::new();
    for block in section.split("\n```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').expect("a block");
        let text = format!("{text}\n");
        match kind {
            "sh" => steps.push(Step { paste: text, prints: None }),
            "text" => steps.last_mut().expect("commands before what they print").prints = Some(text),
            other => panic!("a block of kind {other:?}"),
        }
    }
    steps
}

/// Whether a text is as it was said to be: `...` is any text within a line, and as a line of its own any lines.
fn fits(said: &str, text: &str) -> bool {
    fn lines(said: &[&str], text: &[&str]) -> bool {
        match said.split_first() {
            None => text.is_empty(),
            Some((&"...", said)) => (0..=text.len()).any(|skipped| lines(said, &text[skipped..])),
            Some((first, said)) => {
                text.split_first().is_some_and(|(line, text)| words(first, line) && lines(said, text))
            }
        }
    }
    fn words(said: &str, line: &str) -> bool {
        match said.split_once("...") {
            None => said == line,
            Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
                rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| words(after, &rest[at..]))
            }),
        }
    }
    lines(&said.lines().collect::<Vec<_>>(), &text.lines().collect::<Vec<_>>())
}

#[test]
fn what_was_said_fits_or_not() {
    assert!(fits("a ... c\n...\nz\n", "a b c\nx\ny\nz\n"));
    assert!(fits("...\n", ""));
    assert!(fits("...b\n", "abab\n"));
    assert!(!fits("a\n", "a\nb\n"));
    assert!(!fits("a ... c\n", "a b d\n"));
    assert!(!fits("", "lost\n"));
}
