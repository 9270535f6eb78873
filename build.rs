//! Tells the binaries which commit they were built from.

use std::process::Command;

fn main() {
    let commit = git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo::rustc-env=BGPROXY_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    // What git writes at each commit and checkout. In a worktree `.git` is a file, so only git knows where that is; and
    // to watch a path that does not exist would run this, and compile everything, each time.
    let written = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    if let Some(path) = written.filter(|path| std::path::Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
}

/// What git says, if this is a repository and there is a git.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
