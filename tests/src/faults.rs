//! What befalls routers.

use std::time::Duration;

use crate::Fabric;

/// How a router dies. docs/failover.md section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL: ICMP tells whoever sends to it.
    Kill,
    /// Its datagrams vanish, both ways: nothing tells.
    BlackHole,
    /// SIGSTOP for so long; then it runs on with what waits in its socket buffer.
    Freeze(Duration),
    /// SIGSTOP for good.
    FreezeForGood,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Die(usize, Death),
    Thaw(usize),
    Connect(usize),
    Start(usize),
    /// The registry tells the router who it is.
    ConfigureRouter(usize),
    /// The registry tells the SBC what has changed.
    ConfigureSbc,
}

impl Fabric {
    /// Lets a router die now.
    pub fn die(&mut self, router: usize, death: Death) {
        let host = self.routers[router].host;
        let how = match death {
            Death::Kill => "is killed".to_owned(),
            Death::BlackHole => "is cut off".to_owned(),
            Death::Freeze(time) => format!("is frozen for {time:?}"),
            Death::FreezeForGood => "is frozen".to_owned(),
        };
        self.note(router, &how);
        match death {
            Death::Kill => self.world.kill(host, true),
            Death::BlackHole => self.world.isolate(host, true),
            Death::FreezeForGood => self.world.freeze(host),
            Death::Freeze(time) => {
                self.world.freeze(host);
                self.schedule(self.world.now() + time, Action::Thaw(router));
            }
        }
    }

    /// Lets a router die then.
    pub fn die_at(&mut self, at: Duration, router: usize, death: Death) {
        self.schedule(at, Action::Die(router, death));
    }

    /// Starts a router anew then, without memory; it knows its configuration `configured_after` that,
    /// and the SBC hears of the new incarnation `told_after` that.
    pub fn restart_at(
        &mut self,
        at: Duration,
        router: usize,
        configured_after: Duration,
        told_after: Duration,
    ) {
        self.schedule(at, Action::Start(router));
        self.schedule(at + configured_after, Action::ConfigureRouter(router));
        self.schedule(at + told_after, Action::ConfigureSbc);
    }

    /// Ends a black hole then.
    pub fn connect_at(&mut self, at: Duration, router: usize) {
        self.schedule(at, Action::Connect(router));
    }

    /// Lets the registry remove a router: its address stays one of the cluster's.
    pub fn forget(&mut self, router: usize) {
        self.note(router, "is removed from the registry");
        self.forgotten.push(router);
        self.configure_sbc();
        for router in 0..self.routers.len() {
            self.configure_router(router);
        }
    }

    fn note(&mut self, router: usize, what: &str) {
        let name = self.world.name(self.routers[router].host);
        self.notes
            .push((self.world.now(), format!("{name} {what}")));
    }

    fn schedule(&mut self, at: Duration, action: Action) {
        self.scheduled += 1;
        self.actions.insert((at, self.scheduled), action);
    }

    pub(crate) fn perform(&mut self, action: Action) {
        match action {
            Action::Die(router, death) => self.die(router, death),
            Action::Thaw(router) => {
                self.note(router, "runs on");
                self.world.thaw(self.routers[router].host);
            }
            Action::Connect(router) => {
                self.note(router, "is connected again");
                self.world.isolate(self.routers[router].host, false);
            }
            Action::Start(router) => {
                self.note(router, "starts anew");
                self.world.isolate(self.routers[router].host, false);
                self.start_router(router);
            }
            Action::ConfigureRouter(router) => self.configure_router(router),
            Action::ConfigureSbc => {
                let told = "SBC hears of a new incarnation".to_owned();
                self.notes.push((self.world.now(), told));
                self.configure_sbc();
            }
        }
    }
}
