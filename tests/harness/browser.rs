//! A browser that nobody looks at: headless Chromium, driven by chromedriver over WebDriver (W3C), which is HTTP and
//! JSON.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::process::Process;
use super::raw::{Raw, request};
use super::{DEADLINE, must, need, wait_for};

/// One browser with one page.
pub(crate) struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Process,
}

impl Browser {
    /// Starts a browser whose profile is in `dir`.
    #[track_caller]
    pub(crate) fn start(dir: &Path) -> Browser {
        Browser::start_with(dir, &[])
    }

    /// The same with more arguments for Chromium.
    #[track_caller]
    pub(crate) fn start_with(dir: &Path, more: &[&str]) -> Browser {
        let mut command = Command::new(need("chromedriver"));
        command.arg("--port=0");
        let mut process = Process::start("chromedriver", &mut command, &dir.join("chromedriver.log"));
        let port = process.wait_for("chromedriver's port", || {
            let log = std::fs::read_to_string(dir.join("chromedriver.log")).unwrap_or_default();
            let port = log.split("started successfully on port ").nth(1).and_then(|rest| rest.split('.').next());
            port.and_then(|port| port.parse::<u16>().ok()).ok_or(log)
        });
        let mut browser =
            Browser { driver: SocketAddr::from(([127, 0, 0, 1], port)), session: String::new(), _process: process };
        let profile = format!("--user-data-dir={}", dir.join("profile").display());
        let mut args = vec![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,900",
            &profile,
        ];
        args.extend(more);
        let binary = need("chromium");
        let wish = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": args, "binary": binary },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.call("POST", "/session", &wish);
        browser.session = session["sessionId"].as_str().unwrap_or_default().to_owned();
        browser
    }

    /// Opens a page.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.call("POST", &format!("/session/{}/url", self.session), &json!({ "url": url }));
    }

    /// What a script on the page returns.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        let command = json!({ "script": script, "args": [] });
        self.call("POST", &format!("/session/{}/execute/sync", self.session), &command)
    }

    /// The text a person sees.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a person sees this text.
    #[track_caller]
    pub(crate) fn wait_text(&self, wanted: &str) {
        wait_for(&format!("{wanted:?} on the page"), DEADLINE, || {
            let text = self.text();
            if text.contains(wanted) { Ok(()) } else { Err(text) }
        });
    }

    /// What the page's scripts and the page's policy complained about since the last look.
    #[track_caller]
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", &format!("/session/{}/se/log", self.session), &json!({ "type": "browser" }));
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, command: &Value) -> Value {
        let body = command.to_string();
        let host = self.driver.to_string();
        let headers = [("Host", host.as_str()), ("Content-Type", "application/json"), ("Connection", "close")];
        let mut driver = Raw::connect(self.driver).deadline(DEADLINE);
        driver.send(request(method, path, &headers, body.as_bytes()));
        let response = driver.response();
        let mut answer = response.json();
        let result = if response.status == 200 { Ok(answer["value"].take()) } else { Err(answer["value"].to_string()) };
        must(format!("{method} {path}"), result)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser; chromedriver itself is ended as a process.
        if let Ok(mut driver) = Raw::try_connect(self.driver) {
            let host = self.driver.to_string();
            let path = format!("/session/{}", self.session);
            if driver.try_send(request("DELETE", &path, &[("Host", &host)], b"")).is_ok() {
                let _ending = driver.try_response();
            }
        }
    }
}
