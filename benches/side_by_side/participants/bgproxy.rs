//! How is bgproxy configured? With what a production configuration has: metrics, hosts, limits, both colors.

use std::fs;
use std::process::Command;

use super::{Participant, Who, free_address};
use crate::process::Running;
use crate::site::{HOST, Site};

pub(super) fn start(who: &Who, site: &Site) -> anyhow::Result<Participant> {
    let (clear, secure, admin) = (free_address()?, free_address()?, free_address()?);
    let home = site.home("bgproxy")?;
    fs::create_dir(home.join("state"))?;
    let (here, cert, key) = (home.display(), &site.certificate.cert, &site.certificate.key);
    let access = if who.setup.log { home.join("access.log").display().to_string() } else { "off".to_owned() };
    let config = format!(
        "workers = {}\nadmin.address = \"{admin}\"\ncontrol.socket = \"{here}/control.sock\"\n\
         state.dir = \"{here}/state\"\nlog.access = {access:?}\n\
         [[listen]]\naddress = \"{clear}\"\n[[listen]]\naddress = \"{secure}\"\ntls = true\n\
         [[certificate]]\ncert = {cert:?}\nkey = {key:?}\n\
         [service.bench]\nhosts = [\"{HOST}\"]\n\
         [service.bench.backends]\nblue = {:?}\ngreen = {:?}\n",
        who.setup.workers,
        site.socket("blue"),
        site.socket("green"),
    );
    let file = home.join("bgproxy.toml");
    fs::write(&file, &config)?;
    let process = Running::start(Command::new(&who.program).arg("-c").arg(file), &home, "bgproxy")?;
    Ok(Participant { who: who.clone(), process, clear, h2c: Some(clear), secure: Some(secure), home, config })
}
