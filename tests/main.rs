//! The tests of the two binaries: real processes, real sockets, a real nginx and uwsgi. One binary holds them all,
//! because linking is what takes long.
#![expect(clippy::unwrap_used, reason = "a test ends where it fails, and says so")]

// What the tests stand on: the door, the application, scripted backends, clients.
#[expect(dead_code, reason = "a toolbox: not every tool is in use at every time")]
mod harness;

// That it can be relied on.
mod harness_tests;

// The status page, as a person sees it in a browser.
mod page;
// What goes wrong, what it is called, and what it must not cost.
mod failing;

// Backends that are spoken to in another way: HTTP/2, PROXY protocol.
mod backends;

// What clients read when a request fails.
mod error_pages;

// What becomes of bodies that nobody wants to the end.
mod unread;

// What connections are between requests.
mod parking;

// How requests and answers pass: framing, headers, streams.
mod forwarding;

// What the internet speaks, by curl, Chromium, nghttp and h2load.
mod internet;

// Websockets, a thousand of them over a switch, and over HTTP/2.
mod websockets;

// TLS, and what it has to do with: redirects, certificates of clients, versions, sessions, ends.
mod secure;

// What a 101 begins, byte by byte, and how it ends.
mod tunnels;

// gRPC, to backends that speak HTTP/2 in clear.
mod grpc;

// PROXY protocol: who the client is, with HAProxy before the door and nginx behind it.
mod proxied;

// Who takes his time: deadlines, and what crowds of slow clients cost the others.
mod slow;

// What hostile and odd requests get, and what of them a backend sees.
mod hostile;

// What clients of HTTP/2 get that flood, stall or break the rules, and what it costs the others.
mod hostile_http2;

// What the control socket and the admin listener make of the same, and of those who do not go.
mod hostile_daemon;

// What the process has given up.
mod hardened;

// The main promise, once through all of it.
mod smoke;

// Commands that move live and preview: what they promise, and when they refuse.
mod switching;

// What becomes of streams after a switch.
mod streaming;

// What one address may cost: connections, requests; who leaves when the house is full, and who is not let in at all.
mod limits;

// What a crash leaves behind, of us and of a backend, and what a start says that cannot succeed.
mod crashing;

// Units, configurations and alerts that ship beside the binaries.
mod shipped;

// What the documents say is what the binaries do.
mod documents;

// The demo, by what it prints.
mod demo;

// What the README says one sees.
mod tour;

// Files that are commands or change what is served: live files, the configuration, backends' sockets.
mod files;

// Certificates on disk: in use, replaced, faulty.
mod certificates;

// Certificates that the door fetches and renews by itself.
mod acme;

// What an authority can do that means harm: withhold a certificate, and nothing else.
mod rogues;

// What people read from the two binaries, word for word.
mod commands;

// What can be seen of it: metrics, health, events, logs, and by whom.
mod seeing;
