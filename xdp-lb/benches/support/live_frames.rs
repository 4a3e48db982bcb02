//! The kernel's own packet generator: live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18).

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::TestRun as _;
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{TestRunAttrs, TestRunOptions, Xdp};
use xdp_lb::datapath::{Datapath, Options, Policy};
use xdp_lb::model::{Limits, PortRange, Timeouts};
use xdp_lb_common::bench::Plan;
use xdp_lb_tests::Host;

use crate::plain::Plain;

/// Frames that the kernel hands to the program at a time (its own default).
pub const BATCH: u32 = 64;

/// The generator, with the object that it is a program of.
pub struct LiveFrames {
    datapath: Datapath,
    plan: Array<MapData, Plain<Plan>>,
    rounds: PerCpuArray<MapData, u64>,
}

impl LiveFrames {
    /// Loads it.
    pub fn new() -> Result<Self> {
        let mut datapath = load()?;
        let object = datapath.object();
        let program: &mut Xdp = object.program_mut("xdp_generate").context("no program")?.try_into()?;
        program.load()?;
        let plan = object.take_map("BENCH_PLAN").context("no plan")?.try_into()?;
        let rounds = object.take_map("BENCH_ROUNDS").context("no counter")?.try_into()?;
        Ok(Self { datapath, plan, rounds })
    }

    /// The object, whose other programs and maps are used, too.
    #[allow(dead_code, reason = "not every benchmark uses them")]
    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Sends so many frames of a plan, whose interface is this host's, and returns how long that took.
    pub fn send(&mut self, host: &Host, frame: &[u8], plan: Plan, packets: u32) -> Result<Duration> {
        self.plan.set(0, Plain(plan), 0)?;
        let object = self.datapath.object();
        let program: &Xdp = object.program("xdp_generate").context("no program")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let took = host.enter(|| {
            let begin = Instant::now();
            program.test_run(options).map(|_| begin.elapsed())
        })?;
        took.context("this kernel has no live frames (5.18 has)")
    }

    /// Has the next frames be those of the flow with this number and the next ones.
    #[allow(dead_code, reason = "not every benchmark repeats flows")]
    pub fn begin_at(&mut self, flow: u64) -> Result<()> {
        let cpus = self.rounds.get(&0, 0)?.len();
        self.rounds.set(0, PerCpuValues::try_from(vec![flow; cpus])?, 0)?;
        Ok(())
    }
}

/// A datapath that serves nothing, for the other programs of its object.
pub fn load() -> Result<Datapath> {
    Datapath::load(&Options {
        pin_path: None,
        limits: Limits { services: 1, backends: 1, slots: 1_024, flows: 1_024, ..Limits::default() },
        policy: Policy {
            asymmetric_replies: false,
            flow_hash_secret: None,
            snat_ports: PortRange { first: 1024, last: 65_535 },
            timeouts: Timeouts::default(),
        },
    })
}
