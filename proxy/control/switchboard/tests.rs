//! One decision per test; what orders of events can do is in [`super::simulation`].

use bgproxy_conf::wire::DrainOutcome;

use super::*;

fn portal() -> ServiceName {
    "portal".parse().expect("a name")
}

fn color(name: &str) -> Color {
    name.parse().expect("a color")
}

fn record(generation: u64, live: &str) -> Record {
    let live = color(live);
    let file_seen = Some(format!("{live}\n"));
    Record { generation, preview: live.clone(), live, previous: None, file_seen, history: Vec::new() }
}

/// A service with blue, green and red; blue is live in generation 1.
fn board() -> Board {
    let colors = ["blue", "green", "red"].map(color).to_vec();
    Board { services: BTreeMap::from([(portal(), Entry::new(colors, record(1, "blue")))]) }
}

fn to(name: &str) -> Command {
    Command {
        action: Action::Switch,
        to: Some(color(name)),
        force: false,
        expect_live: None,
        expect_generation: None,
        by: "a test".to_owned(),
        at: "2026-01-02T03:04:05Z".to_owned(),
        file: None,
    }
}

fn forced(name: &str) -> Command {
    Command { force: true, ..to(name) }
}

fn preview(name: &str) -> Command {
    Command { action: Action::Preview, ..forced(name) }
}

fn from_file(name: &str) -> Command {
    Command { file: Some(format!("{name}\n")), ..to(name) }
}

fn receipt(generation: u64, from: &str, to: &str) -> Receipt {
    Receipt {
        generation,
        from: color(from),
        to: color(to),
        outcome: DrainOutcome::Drained,
        served: 0,
        in_flight: 0,
        finished: 0,
        moved: 0,
        failed: 0,
        cut_total: 0,
        cut: Vec::new(),
        streams_kept: 0,
        streams_left: 0,
        seconds: 0.0,
    }
}

impl Board {
    fn ask(&mut self, id: CommandId, command: Command) -> Vec<Effect> {
        self.step(Event::Commanded(id, portal(), command))
    }

    fn ready(&mut self, id: CommandId) -> Vec<Effect> {
        self.step(Event::Probed(id, portal(), Ok(())))
    }

    fn saved(&mut self, id: CommandId) -> Vec<Effect> {
        self.step(Event::Persisted(id, portal(), Ok(())))
    }

    fn fence(&mut self, id: CommandId) -> Vec<Effect> {
        self.step(Event::Fenced(id, portal()))
    }

    fn portal(&self) -> &Entry {
        &self.services[&portal()]
    }

    /// Carries a forced command out, from its Commanded to its Fenced.
    fn carry_out(&mut self, id: CommandId, command: Command) -> Vec<Effect> {
        [self.ask(id, command), self.saved(id), self.fence(id)].concat()
    }
}

/// The kinds of effects, in their order.
fn kinds(effects: &[Effect]) -> Vec<&'static str> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Probe(..) => "probe",
            Effect::Persist(Some(_), ..) => "persist",
            Effect::Persist(None, ..) => "keep",
            Effect::Resume(..) => "resume",
            Effect::Publish => "publish",
            Effect::Fence(..) => "fence",
            Effect::Reply(_, Ok(done)) if done.changed => "reply",
            Effect::Reply(_, Ok(_)) => "reply unchanged",
            Effect::Reply(_, Err(refusal)) => refusal.reason(),
            Effect::Drain { .. } => "drain",
            Effect::WriteLiveFile(..) => "write",
            Effect::Tell(..) => "tell",
        })
        .collect()
}

#[test]
fn a_switch_probes_persists_publishes_fences_replies_and_drains_in_this_order() {
    let mut board = board();
    assert_eq!(kinds(&board.ask(1, to("green"))), ["tell", "probe"]);
    assert_eq!(board.portal().record.generation, 1);
    let persist = board.ready(1);
    let [Effect::Persist(Some(1), _, next)] = &persist[..] else { panic!("{persist:?}") };
    assert_eq!((next.generation, &next.live, &next.preview), (2, &color("green"), &color("green")));
    assert_eq!(board.portal().record.live, color("blue"), "not in force before it is saved");
    assert_eq!(kinds(&board.saved(1)), ["publish", "fence"]);
    assert_eq!(board.portal().record, *next);
    let end = board.fence(1);
    assert_eq!(kinds(&end), ["reply", "tell", "drain", "write"]);
    let done = Done { generation: 2, from: color("blue"), to: color("green"), preview: color("green"), changed: true };
    assert_eq!(end[0], Effect::Reply(1, Ok(done)));
    let drain = Effect::Drain { service: portal(), from: color("blue"), to: color("green"), generation: 2 };
    assert_eq!(end[2], drain);
    assert_eq!(end[3], Effect::WriteLiveFile(portal(), color("green")));
}

#[test]
fn force_skips_the_probe_and_history_says_so() {
    let mut board = board();
    assert_eq!(kinds(&board.ask(1, forced("green"))), ["persist"]);
    board.saved(1);
    let history = &board.portal().record.history;
    assert!(history.len() == 1 && history[0].forced && history[0].from == color("blue"));
}

#[test]
fn a_switch_to_the_live_color_is_a_success_that_changes_nothing() {
    let mut board = board();
    assert_eq!(kinds(&board.ask(1, to("blue"))), ["reply unchanged"]);
    assert_eq!(kinds(&board.ask(2, preview("blue"))), ["reply unchanged"]);
    // From the file it is remembered, so that a restart does not take it for news.
    let mut again = from_file("blue");
    again.file = Some(" blue".to_owned());
    assert_eq!(kinds(&board.ask(3, again)), ["reply unchanged", "keep"]);
    assert_eq!(board.portal().record.generation, 1);
}

#[test]
fn of_two_commands_at_once_one_wins_and_the_other_is_told() {
    let mut board = board();
    board.ask(1, to("green"));
    for (id, stage) in [(2, Stage::Probing), (3, Stage::Persisting), (4, Stage::Fencing)] {
        assert_eq!(board.portal().pending.as_ref().map(|pending| pending.stage), Some(stage));
        let told = board.ask(id, to("red"));
        assert_eq!(told[0], Effect::Reply(id, Err(Refusal::Busy(Action::Switch, color("green")))));
        match stage {
            Stage::Probing => drop(board.ready(1)),
            Stage::Persisting => drop(board.saved(1)),
            Stage::Fencing => assert_eq!(kinds(&board.fence(1))[0], "reply"),
        }
    }
}

#[test]
fn what_is_expected_must_be_so() {
    let mut board = board();
    let command = Command { expect_live: Some(color("green")), ..to("red") };
    assert_eq!(board.ask(1, command)[0], Effect::Reply(1, Err(Refusal::OtherLive(color("blue")))));
    let command = Command { expect_generation: Some(7), ..to("red") };
    assert_eq!(board.ask(2, command)[0], Effect::Reply(2, Err(Refusal::OtherGeneration(1))));
    let command = Command { expect_generation: Some(1), expect_live: Some(color("blue")), ..to("red") };
    assert_eq!(kinds(&board.ask(3, command)), ["tell", "probe"]);
}

#[test]
fn unknown_names_are_refused() {
    let mut board = board();
    assert_eq!(kinds(&board.ask(1, to("pink"))), ["unknown_color", "tell"]);
    let elsewhere: ServiceName = "shop".parse().expect("a name");
    assert_eq!(kinds(&board.step(Event::Commanded(2, elsewhere, to("green")))), ["unknown_service"]);
}

#[test]
fn a_color_that_is_not_ready_changes_nothing() {
    let mut board = board();
    board.ask(1, to("green"));
    assert_eq!(kinds(&board.step(Event::Probed(1, portal(), Err(None)))), ["unready", "tell"]);
    assert_eq!(board.portal().record, record(1, "blue"));
    assert!(board.portal().pending.is_none());
}

#[test]
fn whoever_leaves_while_the_color_is_asked_takes_the_command_along_but_not_later() {
    let mut board = board();
    board.ask(1, to("green"));
    assert_eq!(kinds(&board.step(Event::Abandoned(1, portal()))), ["abandoned", "tell"]);
    board.ask(2, to("green"));
    board.ready(2);
    assert_eq!(board.step(Event::Abandoned(2, portal())), []);
    assert_eq!(kinds(&board.saved(2)), ["publish", "fence"]);
}

#[test]
fn a_record_that_cannot_be_saved_never_comes_into_force() {
    let mut board = board();
    board.ask(1, forced("green"));
    let full = Err("disk full".to_owned());
    assert_eq!(kinds(&board.step(Event::Persisted(1, portal(), full))), ["not_saved", "tell"]);
    assert_eq!(board.portal().record, record(1, "blue"));
}

#[test]
fn late_news_of_an_ended_command_is_dropped() {
    let mut board = board();
    board.ask(1, to("green"));
    board.step(Event::Abandoned(1, portal()));
    board.ask(2, forced("red"));
    assert_eq!(board.ready(1), []);
    assert_eq!(board.saved(1), []);
    assert_eq!(board.fence(1), []);
    assert_eq!(board.fence(2), [], "it is being saved");
}

#[test]
fn a_rollback_goes_to_the_color_that_was_live_before_and_back() {
    let mut board = board();
    let rollback = || Command { action: Action::Rollback, to: None, ..forced("blue") };
    assert_eq!(kinds(&board.ask(1, rollback())), ["no_previous", "tell"]);
    board.carry_out(2, forced("green"));
    board.carry_out(3, rollback());
    assert_eq!((&board.portal().record.live, board.portal().record.generation), (&color("blue"), 3));
    board.carry_out(4, rollback());
    assert_eq!(board.portal().record.live, color("green"));
}

#[test]
fn a_rollback_is_probed_unless_forced() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    let rollback = Command { action: Action::Rollback, to: None, ..to("blue") };
    assert_eq!(kinds(&board.ask(2, rollback)), ["tell", "probe"]);
}

#[test]
fn a_preview_moves_testers_only_and_a_switch_takes_them_along() {
    let mut board = board();
    let effects = board.carry_out(1, preview("green"));
    assert_eq!(kinds(&effects), ["persist", "publish", "fence", "reply", "tell"]);
    let Record { generation, live, preview, previous, .. } = &board.portal().record;
    assert_eq!((*generation, live, preview, previous), (2, &color("blue"), &color("green"), &None));
    board.carry_out(2, forced("red"));
    assert_eq!(board.portal().record.preview, color("red"));
}

#[test]
fn switching_back_ends_the_drain_before_the_table_is_published() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    assert_eq!(board.portal().draining, BTreeMap::from([(color("blue"), 2)]));
    board.ask(2, forced("blue"));
    assert_eq!(kinds(&board.saved(2)), ["resume", "publish", "fence"]);
    assert!(board.portal().draining.is_empty());
}

#[test]
fn a_color_that_drains_may_drain_on_while_another_goes_live() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    assert_eq!(kinds(&board.carry_out(2, forced("red")))[1..3], ["publish", "fence"]);
    assert_eq!(board.portal().draining, BTreeMap::from([(color("blue"), 2), (color("green"), 3)]));
}

#[test]
fn a_receipt_reaches_the_history_entry_of_its_generation() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    let effects = board.step(Event::Drained(portal(), receipt(2, "blue", "green")));
    assert_eq!(kinds(&effects), ["keep", "tell"]);
    let Effect::Persist(None, _, kept) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(kept.history[0].receipt, Some(receipt(2, "blue", "green")));
    assert!(board.portal().draining.is_empty());
}

#[test]
fn a_receipt_of_an_earlier_term_does_not_end_a_later_drain() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    board.carry_out(2, forced("blue"));
    board.carry_out(3, forced("green"));
    board.step(Event::Drained(portal(), receipt(2, "blue", "green")));
    assert_eq!(board.portal().draining[&color("blue")], 4);
    assert!(board.portal().record.history[0].receipt.is_some());
}

#[test]
fn a_receipt_that_comes_while_a_record_is_saved_is_saved_after_it() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    board.ask(2, forced("red"));
    let told = board.step(Event::Drained(portal(), receipt(2, "blue", "green")));
    assert_eq!(kinds(&told), ["tell"], "the record in force is older than the one in the queue");
    let effects = board.saved(2);
    assert_eq!(kinds(&effects), ["publish", "keep", "fence"]);
    let Effect::Persist(None, _, kept) = &effects[1] else { panic!("{effects:?}") };
    assert_eq!((kept.generation, kept.history[0].receipt.is_some()), (3, true));
}

#[test]
fn a_receipt_that_comes_while_a_record_fails_to_be_saved_is_saved_all_the_same() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    board.ask(2, forced("red"));
    board.step(Event::Drained(portal(), receipt(2, "blue", "green")));
    let effects = board.step(Event::Persisted(2, portal(), Err("disk full".to_owned())));
    assert_eq!(kinds(&effects), ["keep", "not_saved", "tell"]);
    assert_eq!(board.portal().record.generation, 2);
}

/// The record of the receipt came to lie on the one that knew what had been written into the file.
#[test]
fn after_a_failed_save_the_live_file_is_written_last() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    board.ask(2, Command { force: true, ..from_file("red") });
    board.step(Event::Drained(portal(), receipt(2, "blue", "green")));
    let effects = board.step(Event::Persisted(2, portal(), Err("disk full".to_owned())));
    assert_eq!(kinds(&effects), ["keep", "not_saved", "tell", "write"]);
}

/// The receipt went nowhere, and whoever waited for it waited for ever.
#[test]
fn the_receipt_of_a_service_that_is_gone_is_told() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    board.services.clear();
    let receipt = receipt(2, "blue", "green");
    let told = board.step(Event::Drained(portal(), receipt.clone()));
    assert_eq!(told, [Effect::Tell(portal(), What::Drained(receipt))]);
}

/// Testers' new requests kept the drain from ending, and were cut with the old ones at its deadline.
#[test]
fn a_color_that_drains_and_becomes_preview_is_resumed() {
    let mut board = board();
    board.carry_out(1, forced("green"));
    board.ask(2, preview("blue"));
    assert_eq!(kinds(&board.saved(2)), ["resume", "publish", "fence"]);
    assert!(board.portal().draining.is_empty());
}

/// A restart in the midst of the command took our own text in the file for somebody's command.
#[test]
fn the_live_file_is_not_written_before_the_pending_command_ends() {
    for pending in [from_file("green"), to("green"), preview("green")] {
        let mut board = board();
        board.ask(1, Command { force: false, ..pending.clone() });
        assert_eq!(kinds(&board.ask(2, from_file("red"))), ["busy", "tell"]);
        assert_eq!(board.step(Event::FileAmiss(portal())), []);
        board.ready(1);
        assert_eq!(board.step(Event::FileAmiss(portal())), []);
        board.saved(1);
        assert_eq!(kinds(&board.fence(1)).last(), Some(&"write"), "{pending:?}");
    }
    let mut board = board();
    board.ask(1, to("green"));
    board.step(Event::FileAmiss(portal()));
    assert_eq!(kinds(&board.step(Event::Abandoned(1, portal()))), ["abandoned", "tell", "write"]);
    assert_eq!(kinds(&board.step(Event::FileAmiss(portal()))), ["write"]);
}

#[test]
fn a_reload_makes_a_new_generation_when_requests_go_elsewhere_and_keeps_the_live_color() {
    let colors = |names: &[&str]| names.iter().map(|name| color(name)).collect::<Vec<_>>();
    let mut board = board();
    board.carry_out(1, preview("red"));
    let mut entry = board.portal().clone();
    assert_eq!(entry.reload(colors(&["blue", "green", "red"]), false), Ok(false));
    assert_eq!(entry.reload(colors(&["blue", "green"]), true), Ok(true));
    assert_eq!((entry.record.generation, &entry.record.preview), (3, &color("blue")));
    assert_eq!(entry.reload(colors(&["green", "red"]), true), Err(Unfit::LiveIsGone(color("blue"))));
    board.ask(2, to("green"));
    let mut entry = board.portal().clone();
    assert_eq!(entry.reload(colors(&["blue", "green"]), true), Err(Unfit::Busy));
    assert_eq!(entry.reload(colors(&["blue", "green", "red"]), false), Ok(false));
}

#[test]
fn a_refused_live_file_goes_back_to_the_truth() {
    let mut board = board();
    board.ask(1, from_file("green"));
    let effects = board.step(Event::Probed(1, portal(), Err(None)));
    assert_eq!(effects.last(), Some(&Effect::WriteLiveFile(portal(), color("blue"))));
}

#[test]
fn what_the_live_file_said_is_saved_with_the_switch_it_asked_for() {
    let mut board = board();
    board.ask(1, Command { file: Some("green".to_owned()), ..forced("green") });
    board.saved(1);
    assert_eq!(board.portal().record.file_seen.as_deref(), Some("green"));
    assert_eq!(board.step(Event::FileSeen(portal(), "green".to_owned())), []);
    assert_eq!(kinds(&board.step(Event::FileSeen(portal(), "green\n".to_owned()))), ["keep"]);
}

#[test]
fn while_workers_confirm_no_color_is_settled() {
    let mut board = board();
    board.ask(1, forced("green"));
    assert!(!board.portal().is_unsettled(&color("red")));
    board.saved(1);
    assert!(board.portal().is_unsettled(&color("red")));
    board.fence(1);
    assert!(!board.portal().is_unsettled(&color("red")));
    assert!(board.portal().is_unsettled(&color("blue")), "it drains");
}

#[test]
fn one_service_never_waits_for_another() {
    let mut board = board();
    let shop: ServiceName = "shop".parse().expect("a name");
    let colors = ["blue", "green"].map(color).to_vec();
    board.services.insert(shop.clone(), Entry::new(colors, record(1, "green")));
    board.ask(1, to("green"));
    assert_eq!(kinds(&board.step(Event::Commanded(2, shop.clone(), forced("blue")))), ["persist"]);
    assert_eq!(kinds(&board.step(Event::Persisted(2, shop.clone(), Ok(())))), ["publish", "fence"]);
    assert_eq!(board.portal().record.generation, 1);
    assert_eq!(board.services[&shop].record.generation, 2);
}
