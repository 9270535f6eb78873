//! Pauses of the keeper, in virtual time.

use bgproxy_conf::Config;

use super::*;

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_pause_after_a_mistake_ends_by_itself_or_by_a_reload() {
    let (dir, wanted) = (tempfile::tempdir().expect("a directory"), Wanted::of(&Config::default()));
    let (mut keeper, tell) = Keeper::new(wanted.clone(), dir.path(), Arc::default());
    for reloads in [false, true, false] {
        let begun = Instant::now();
        if reloads {
            tell.send(wanted.clone().after(&wanted, true)).expect("a keeper");
        }
        keeper.rest().await;
        assert_eq!(begun.elapsed(), if reloads { Duration::ZERO } else { PAUSE });
    }
}
