/*
 * Copyright The Godwit Authors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The handover of a migration, for the model checker spin. docs/protocol.md
 * says what the names mean and how the model relates to the code; main.go runs it.
 *
 * One process holds all steps of all parts, each step one atomic option of the
 * loop at the end: whatever order the parts run in is some path through it.
 * A part decides on its cache, a copy of the API object that may be any age, and
 * acts on its node. Every guard of the protocol is a macro that one -DNO_... takes
 * away.
 */

/* FAULTS bounds how many faults one run sees; NODES of them are losses of nodes. */
#ifndef FAULTS
#define FAULTS 2
#endif

/* ---- values -------------------------------------------------------------- */

/* status.phase; PRE is PreCopying after the last round. */
#define PRE 0
#define SW 1
#define COMPLETING 2
#define ROLLING 3
#define SUCCEEDED 4
#define FAILED 5
/* status.handover */
#define EMPTY 0
#define COMMITTED 1
#define ABORTED 2
/* status.source.state */
#define CONVERGED 0
#define FROZEN 1
#define DUMPED 2
#define RESUMED 3
#define KILLED 4
#define CLEANED 5
#define GAVEUP 6 /* Converged with a failure */
/* status.target.state */
#define GATED 0
#define PARKED 1
#define RESTORED 2
#define UNABLE 3 /* Failed */
#define REVERTED 4
#define TCLEANED 5
/* the tasks of the source */
#define RUNS 0
#define STILL 1
#define DEAD 2
#define FRESH 3 /* started from the image: not what was there before */
/* the tasks of the target */
#define NONE 0
#define STARTING 1 /* runc was started, nothing is in the container's cgroup */
#define MAKING 2   /* CRIU is in the cgroup and makes the processes */
#define MARKED 3   /* complete, and the mark says so; not let go yet */
#define LIVES 4
#define FRESHT 5
/* the create of the target's container */
#define IDLE 0
#define WAITS 1
#define TOLD 2
/* a pod object */
#define EXISTS 0
#define DELETING 1
#define GONE 2
/* the image set */
#define INCOMPLETE 0
#define COMPLETE 1
#define REMOVED 2
/* a node: lost is without power, cut is out of touch with all others */
#define UP 0
#define LOST 1
#define CUT 2
/* a write under way whose sender has lost interest */
#define NOTHING 0
#define A_COMMIT 1
#define AN_ABORT 2
#define A_TAKEBACK 3
#define A_DIGEST 4

/* ---- what is true -------------------------------------------------------- */

/* the Migration as the API server has it */
byte phase = PRE, reg = EMPTY, sst = CONVERGED, tst = GATED;
byte spod = EXISTS, tpod = EXISTS;
byte fly = NOTHING;

/* the source's node */
byte src = RUNS;
byte img = INCOMPLETE;
bool slost = false;
/* the record that no container of the source is to be created */
bool fence = false;
/* the target's node; mark is the file that says that the image set is used up */
byte tree = NONE, create = IDLE, tnode = UP;
bool mark = false;

/* ---- what each part knows ------------------------------------------------ */

/* controller: the cache, and deletions it has decided on but not made */
byte cphase = PRE, creg = EMPTY, csst = CONVERGED, ctst = GATED;
bool cdels = false, cdelt = false;

/* source agent: the cache, its own report, a fresh session has not dumped */
bool sup = true, sdumping = false;
byte sphase = PRE, sreg = EMPTY, srep = CONVERGED;

/* target agent: the cache, its own report; own: it has seen its commit stored;
 * knows: it has the connection of the create; ended: a restore ended without
 * success; judging: it has looked for the mark and is about to discard; proven:
 * it has seen that nothing is left */
bool tup = true, own = false, knows = false, ended = false, judging = false, proven = false;
byte tphase = PRE, treg = EMPTY, tsst = CONVERGED, trep = GATED;

/* ---- faults, and what is excepted because of them ------------------------ */

byte faults = FAULTS;
bool nodeproof = false; /* the target's Node is deleted or tainted out-of-service */
bool falseproof = false; /* and that was a lie */
bool ran = false;       /* the restored tree has run */
bool said = false;      /* and its agent has said so */
bool slostonce = false; /* the source's node has been lost, and perhaps come back */
bool overrun = false;   /* kubelet killed the frozen source: the budget was exceeded */
bool copylost = false;  /* the target's node was lost with the running copy */
bool wanted = false;    /* a person deleted a pod */

#define FAULT faults > 0
#define SPEND faults--

/* ---- guards -------------------------------------------------------------- */

#ifdef NO_COMMIT_EMPTY     /* the commit tests that the register is empty */
#define COMMIT_EMPTY true
#else
#define COMMIT_EMPTY (reg == EMPTY)
#endif
#ifdef NO_COMMIT_PHASE     /* the commit tests the phase */
#define COMMIT_PHASE true
#else
#define COMMIT_PHASE (phase == SW)
#endif
#ifdef NO_COMMIT_DIGEST    /* the commit tests the published digest */
#define COMMIT_DIGEST true
#else
#define COMMIT_DIGEST (sst == DUMPED)
#endif
#ifdef NO_AWAIT_DIGEST     /* the target decides to commit only on a digest */
#define AWAIT_DIGEST true
#else
#define AWAIT_DIGEST (tsst == DUMPED)
#endif
#ifdef NO_VERIFY           /* and only on a set that agrees with it: without one anything does */
#define VERIFIED true
#else
#define VERIFIED (img == COMPLETE || tsst != DUMPED)
#endif
#ifdef NO_ABORT_EMPTY      /* the source's abort tests that the register is empty */
#define ABORT_EMPTY true
#else
#define ABORT_EMPTY (reg == EMPTY)
#endif
#ifdef NO_ABORT_VERSION    /* the controller's writes test the version they were decided on */
#define VERSION true
#else
#define VERSION (cphase == phase && creg == reg && csst == sst && ctst == tst)
#endif
#ifdef NO_FINAL            /* an aborted register is final */
#define FINALITY true
#else
#define FINALITY (reg != ABORTED)
#endif
#ifdef NO_TAKEBACK_PROOF   /* a commit is taken back after the proof that nothing is left */
#define TAKEBACK_PROOF true
#else
#define TAKEBACK_PROOF proven
#endif
#ifdef NO_STATED           /* and after the report says that this set is restored no more */
#define STATED false
#else
#define STATED true
#endif
#ifdef NO_MARK_FIRST       /* the mark is on the disk before the tree is let go */
#define MARK_FIRST false
#else
#define MARK_FIRST true
#endif
#ifdef NO_MARK_AGAIN       /* a proof looks for the mark again when nothing runs any more */
#define MARK_AGAIN false
#else
#define MARK_AGAIN true
#endif
#ifdef NO_MARK_DURABLE     /* the mark outlives the node's power */
#define MARK_DURABLE false
#else
#define MARK_DURABLE true
#endif
#ifdef NO_ONCE             /* an image set is restored once */
#define ONCE true
#else
#define ONCE (!mark)
#endif
#ifdef NO_WRAPPER_ENDED    /* nothing is proven while runc may still start CRIU */
#define WRAPPER_ENDED true
#else
#define WRAPPER_ENDED (create != TOLD)
#endif
#ifdef NO_LIVE_REGISTER    /* a restore that is not this session's commit reads the register */
#define LIVE_REGISTER true
#else
#define LIVE_REGISTER (reg == COMMITTED)
#endif
#ifdef NO_SEEN_ALIVE       /* Restored is said of a tree that is seen */
#define SEEN_ALIVE true
#else
#define SEEN_ALIVE (tree == LIVES)
#endif
#ifdef NO_FRESH_CONFIRMED  /* a used set's container starts afresh only when the target is confirmed */
#define FRESH_CONFIRMED true
#else
#define FRESH_CONFIRMED (tst == RESTORED)
#endif
#ifdef NO_FAIL_CLOSED      /* the wrapper without an agent fails what may have to be restored */
#define FAIL_CLOSED false
#else
#define FAIL_CLOSED true
#endif
#ifdef NO_DELETE_CONFIRMED /* the source pod is deleted when the target is confirmed */
#define DELETE_CONFIRMED true
#else
#define DELETE_CONFIRMED (phase == COMPLETING)
#endif
#ifdef NO_COMPLETE_RESTORED /* Completing needs the target's Restored */
#define COMPLETE_RESTORED true
#else
#define COMPLETE_RESTORED (ctst == RESTORED)
#endif
#ifdef NO_KILL_POD_GONE    /* the source's tasks are killed when their pod object is gone */
#define KILL_POD_GONE true
#else
#define KILL_POD_GONE (spod == GONE)
#endif
#ifdef NO_BUDGET           /* a freeze ends before kubelet's patience with probes */
#define BUDGET false
#else
#define BUDGET true
#endif
#ifdef NO_FENCE            /* no container of a frozen source is created, agent or not */
#define FENCED false
#else
#ifdef NO_FENCE_CLOSED     /* the same while the agent is away */
#define FENCED (sup && fence)
#else
#define FENCED fence
#endif
#endif
#ifdef NO_FENCE_DURABLE    /* and when the node has lost its power */
#define FENCE_DURABLE false
#else
#define FENCE_DURABLE true
#endif
#ifdef NO_NODE_PROOF       /* a commit is given up for a node that is proven gone */
#define NODE_PROOF true
#else
#define NODE_PROOF nodeproof
#endif
#ifdef NO_NODE_UNRESTORED  /* and has not said Restored */
#define NODE_UNRESTORED true
#else
#define NODE_UNRESTORED (ctst != RESTORED)
#endif
#ifdef NO_COMEBACK         /* a target that comes back under Aborted discards what runs */
#define COMEBACK false
#else
#define COMEBACK true
#endif

/* ---- properties ---------------------------------------------------------- */

/* 1 == 1 to 4 == 4 name the invariants (a) to (d) of docs/protocol.md in spin's
 * report. */

#define SOURCE_RUNS (src == RUNS || src == FRESH)
#define TARGET_RUNS (tree == LIVES || tree == FRESHT)
#define BEING_RESTORED (reg == COMMITTED && img == COMPLETE && !mark && !proven || tree == MARKED)

inline judge() {
	/* (a) */
	assert(!(SOURCE_RUNS && TARGET_RUNS && 1 == 1) || falseproof);
	/* (b) */
	assert(!(src == DEAD && !TARGET_RUNS && !BEING_RESTORED && 2 == 2) || slostonce || copylost || wanted || overrun)
}

/* (c) a container was started from its image by accident */
#define FRESH_START assert(!(tnode <= CUT && 3 == 3))

/* (d) the source goes on from a past that the target has gone beyond, or the
 * target does so twice */
#define ONLY_FUTURE assert(!(ran && 4 == 4) || nodeproof && !said)

/* ---- steps that are used twice ------------------------------------------- */

#define CAN_COMMIT (COMMIT_EMPTY && COMMIT_PHASE && COMMIT_DIGEST && FINALITY)
#define CAN_ABORT (ABORT_EMPTY && FINALITY)

inline tcache() { tphase = phase; treg = reg; tsst = sst }
inline scache() { sphase = phase; sreg = reg }
inline ccache() { cphase = phase; creg = reg; csst = sst; ctst = tst }

inline tforget() { tup = false; own = false; knows = false; ended = false; judging = false; proven = false; trep = GATED }
inline sforget() { sup = false; sdumping = false; srep = CONVERGED }

#define COMMITTED_FOR_TARGET (treg == COMMITTED || own && treg == EMPTY)
#define TARGET_WORKS (tup && tnode == UP && !judging)
/* what a person, or the node when it comes back, has to decide */
#define UNDECIDED (reg == COMMITTED && (src == STILL || overrun || slostonce || wanted) && (tnode != UP || !TARGET_RUNS && ran || mark && tree == NONE))

#define ENDED_WELL (phase == SUCCEEDED && src == DEAD && (TARGET_RUNS || wanted || copylost))
#define ENDED_BACK (phase == FAILED && (src == RUNS || slost || slostonce && (src == FRESH || spod == GONE) || overrun || wanted) && tree == NONE && create == IDLE)

active proctype everything() {
	do

	/* ---- the API: watches deliver when they like -------------------------- */
	:: d_step { !(cphase == phase && creg == reg && csst == sst && ctst == tst) -> ccache() }
	:: d_step { sup && !(sphase == phase && sreg == reg) -> scache() }
	:: d_step { tup && tnode == UP && !(tphase == phase && treg == reg && tsst == sst) -> tcache() }

	/* a write under way arrives, or never does */
	:: d_step { fly == A_COMMIT -> fly = NOTHING; if :: CAN_COMMIT -> reg = COMMITTED :: else fi; judge() }
	:: d_step { fly == AN_ABORT -> fly = NOTHING; if :: CAN_ABORT -> reg = ABORTED :: else fi; judge() }
	:: d_step { fly == A_TAKEBACK -> fly = NOTHING; if :: reg == COMMITTED -> reg = ABORTED :: else fi; judge() }
	:: d_step { fly == A_DIGEST -> fly = NOTHING; sst = DUMPED }
	:: d_step { fly != NOTHING -> fly = NOTHING }

	/* ---- controller ------------------------------------------------------- */
	:: d_step { cphase == PRE && creg == EMPTY && ctst == PARKED && VERSION -> phase = SW; ccache() }
	/* a user cancels, a deadline passes, an agent has given up */
	:: d_step { cphase <= SW && creg == EMPTY && VERSION && FINALITY -> reg = ABORTED; phase = ROLLING; ccache(); judge() }
	:: d_step { creg == COMMITTED && cphase != COMPLETING && cphase != SUCCEEDED && COMPLETE_RESTORED && VERSION -> phase = COMPLETING; ccache() }
	:: d_step { creg == COMMITTED && (cphase == COMPLETING && reg == COMMITTED || DELETE_CONFIRMED && reg == COMMITTED) && DELETE_CONFIRMED && spod == EXISTS && !cdels -> cdels = true }
	:: d_step { cdels -> cdels = false; if :: spod == EXISTS -> spod = DELETING :: else fi }
	:: d_step { creg == COMMITTED && cphase == COMPLETING && spod == GONE && csst == CLEANED && VERSION -> phase = SUCCEEDED; ccache() }
	:: d_step { creg == ABORTED && cphase <= SW && VERSION -> phase = ROLLING; ccache() }
	:: d_step { creg == ABORTED && cphase == ROLLING && tpod == EXISTS && reg == ABORTED && !cdelt -> cdelt = true }
	:: d_step { cdelt -> cdelt = false; if :: tpod == EXISTS -> tpod = DELETING :: else fi }
	:: d_step { creg == ABORTED && cphase == ROLLING && tpod == GONE && (csst == CLEANED || spod == GONE) && VERSION -> phase = FAILED; ccache() }
	/* the target's node is gone for good: by itself, or asked by a person who then may
	 * also give up a target that was seen to run */
	:: d_step { creg == COMMITTED && cphase < COMPLETING && NODE_PROOF && NODE_UNRESTORED && VERSION -> reg = ABORTED; phase = ROLLING; ccache(); judge() }

	/* ---- source agent ------------------------------------------------------ */
	:: d_step { sup && sphase == SW && sreg == EMPTY && srep == CONVERGED && src == RUNS && spod == EXISTS -> src = STILL; fence = true; srep = FROZEN; sdumping = true; judge() }
	/* the final dump succeeds, or fails and the source goes on */
	:: d_step { sup && sdumping && src == STILL -> img = COMPLETE; srep = DUMPED; sdumping = false }
	:: d_step { sup && sdumping && src == STILL -> ONLY_FUTURE; src = RUNS; fence = false; srep = GAVEUP; sst = GAVEUP; sdumping = false; judge() }
	:: d_step { sup && sdumping && src == DEAD -> srep = GAVEUP; sst = GAVEUP; sdumping = false }
	/* the digest: published, or nobody knows */
	:: d_step { sup && srep == DUMPED && sst == CONVERGED && fly != A_DIGEST -> sst = DUMPED }
#ifdef NO_ASK_REGISTER /* after a publication with unknown outcome the register is asked */
	:: d_step { sup && srep == DUMPED && sst == CONVERGED && FAULT -> SPEND; sst = DUMPED; ONLY_FUTURE; src = RUNS; srep = GAVEUP; judge() }
#else
	:: d_step { sup && srep == DUMPED && sst == CONVERGED && FAULT -> SPEND; sst = DUMPED }
#endif
	:: d_step { sup && srep == DUMPED && sst == CONVERGED && FAULT && fly == NOTHING -> SPEND; fly = A_DIGEST; sforget() }
	/* the switchover timeout, or a restart in the middle of the dump */
	/* or of the node since */
	:: d_step { sup && sphase == SW && sreg == EMPTY && (srep == DUMPED || src == STILL && !sdumping || src == DEAD && fence) && CAN_ABORT -> reg = ABORTED; scache(); judge() }
	:: d_step { sup && sphase == SW && sreg == EMPTY && (srep == DUMPED || src == STILL && !sdumping || src == DEAD && fence) && FAULT && fly == NOTHING -> SPEND; fly = AN_ABORT }
#ifdef NO_THAW_REGISTER /* the source goes on when it has seen Aborted, not when it has not seen Committed */
	:: d_step { sup && sreg == EMPTY && srep == DUMPED && src == STILL -> ONLY_FUTURE; src = RUNS; srep = RESUMED; judge() }
#endif
#ifdef NO_OWN_TAKEBACK /* nobody but the committer takes a commit back */
	:: d_step { sup && sreg == COMMITTED && reg == COMMITTED && src == STILL && sphase == SW -> reg = ABORTED; scache(); judge() }
#endif
	:: d_step { sup && sreg == ABORTED && src == STILL -> ONLY_FUTURE; src = RUNS; srep = RESUMED; sdumping = false; judge() }
	:: d_step { sup && fence && (sreg == ABORTED || spod == GONE) && src != STILL -> fence = false }
	:: d_step { sup && sreg == ABORTED && src != STILL && sst != CLEANED -> srep = CLEANED; sst = CLEANED; img = REMOVED; judge() }
	:: d_step { sup && sreg == COMMITTED && (sphase == COMPLETING || sphase == SUCCEEDED) && KILL_POD_GONE && src == STILL -> src = DEAD; judge() }
	:: d_step { sup && sreg == COMMITTED && (sphase == COMPLETING || sphase == SUCCEEDED) && KILL_POD_GONE && src == DEAD && sst != CLEANED -> srep = CLEANED; sst = CLEANED; img = REMOVED; judge() }

	:: d_step { sup && FAULT -> SPEND; sforget() }
	:: d_step { !sup && !slost -> sup = true; srep = sst }

	/* ---- the source's kubelet ----------------------------------------------- */
	:: d_step { spod == DELETING && !slost -> spod = GONE; src = DEAD; judge() }
	/* probes fail: without a budget at any time, with one after a fault only */
	:: d_step { src == STILL && spod == EXISTS && !BUDGET -> src = DEAD; judge() }
	:: d_step { src == STILL && spod == EXISTS && BUDGET && FAULT -> SPEND; overrun = true; src = DEAD; judge() }
	/* and a dead container is made anew */
	:: d_step { src == DEAD && spod == EXISTS && !slost && !FENCED ->
		if :: (overrun || slostonce) && reg != COMMITTED -> src = FRESH :: else -> FRESH_START fi; judge() }

	/* ---- the target's kubelet and the wrapper -------------------------------- */
	:: d_step { create == IDLE && tree == NONE && tpod == EXISTS && tnode == UP && tup && ONCE && treg != ABORTED && tphase <= SW && trep != UNABLE && !ended && !proven && !judging -> create = WAITS; knows = true }
	:: d_step { create == IDLE && tree == NONE && tpod == EXISTS && tnode == UP && mark && FRESH_CONFIRMED && (tst == RESTORED || reg == COMMITTED) ->
		if :: tst == RESTORED -> tree = FRESHT :: else -> FRESH_START fi; judge() }
	:: d_step { create == IDLE && tree == NONE && tpod == EXISTS && tnode == UP && !tup && !mark && !FAIL_CLOSED -> FRESH_START }
	/* a restarted agent gets the parked creates back */
	:: d_step { create == WAITS && TARGET_WORKS && !knows -> knows = true }
	/* the restore */
	:: d_step { create == TOLD && tree == STARTING -> tree = MAKING }
	:: d_step { tree == MAKING && MARK_FIRST -> mark = true; tree = MARKED }
	:: d_step { tree == MARKED -> ONLY_FUTURE; tree = LIVES; ran = true; if :: create == TOLD -> create = IDLE :: else fi; judge() }
	:: d_step { tree == MAKING && !MARK_FIRST -> ONLY_FUTURE; tree = LIVES; ran = true; judge() }
	:: d_step { tree == LIVES && create == TOLD && !mark -> mark = true; create = IDLE }
	/* it fails: the wrapper clears up, or cannot, or is killed */
	:: d_step { create == TOLD && !mark && (tree == STARTING || tree == MAKING) -> tree = NONE; create = IDLE; ended = ended || knows; judge() }
	/* what is complete and not let go is given up by CRIU itself: nothing has run */
	:: d_step { create == TOLD && tree == MARKED -> tree = NONE; mark = false; create = IDLE; ended = ended || knows; judge() }
	:: d_step { create == TOLD && !mark && tree == MAKING && FAULT -> SPEND; create = IDLE; ended = ended || knows }
	:: d_step { create == TOLD && FAULT -> SPEND; create = IDLE; ended = ended || knows;
		if :: tree == STARTING -> tree = NONE :: else fi; judge() }
	/* its create failed, containerd clears up */
	:: d_step { create == WAITS && FAULT -> SPEND; create = IDLE; knows = false }
	:: d_step { tpod == DELETING && tnode == UP && create != TOLD -> tpod = GONE; create = IDLE; knows = false; tree = NONE; judge() }

	/* ---- target agent -------------------------------------------------------- */
	:: d_step { TARGET_WORKS && treg == EMPTY && tphase <= SW && create == WAITS && knows && trep == GATED && tst == GATED -> trep = PARKED; tst = PARKED }
	/* parked too long, or the set is not what it should be */
	:: d_step { TARGET_WORKS && treg == EMPTY && !own && tphase <= SW && create == WAITS && knows && trep == PARKED -> trep = UNABLE; tst = UNABLE; create = IDLE; knows = false }
	:: d_step { TARGET_WORKS && treg == EMPTY && !own && tphase == SW && AWAIT_DIGEST && VERIFIED && create == WAITS && knows && trep == PARKED ->
		if :: CAN_COMMIT -> reg = COMMITTED; own = true :: else fi; tcache(); judge() }
	:: d_step { TARGET_WORKS && treg == EMPTY && !own && tphase == SW && AWAIT_DIGEST && VERIFIED && create == WAITS && knows && trep == PARKED && FAULT && fly == NOTHING ->
		SPEND; fly = A_COMMIT }
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && create == WAITS && knows && ONCE && !ended && !proven && trep != UNABLE && (own || LIVE_REGISTER) && tst != RESTORED ->
		assert(!(img != COMPLETE && 2 == 2) || falseproof); create = TOLD; tree = STARTING }
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && mark && SEEN_ALIVE && tst != RESTORED && reg == COMMITTED -> trep = RESTORED; tst = RESTORED; said = true; ended = false }
	/* it failed: it was told, the pod goes, or nothing is heard of it for long */
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && !mark && tst != RESTORED && !proven &&
		(ended || create == IDLE || create == TOLD && !knows && tpod != EXISTS) -> judging = true }
	:: d_step { tup && tnode == UP && judging && WRAPPER_ENDED -> judging = false;
		if :: tree == STARTING :: else -> tree = NONE fi;
		if :: MARK_AGAIN && mark :: else -> proven = true; if :: STATED -> trep = UNABLE; tst = UNABLE :: else fi fi; judge() }
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && (ended || proven) && TAKEBACK_PROOF && tst != RESTORED && reg == COMMITTED -> reg = ABORTED; own = false; trep = REVERTED; tst = REVERTED; judge() }
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && (ended || proven) && TAKEBACK_PROOF && tst != RESTORED && FAULT && fly == NOTHING -> SPEND; fly = A_TAKEBACK }
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && trep == UNABLE && create == WAITS -> create = IDLE; knows = false }
	/* aborted */
	:: d_step { TARGET_WORKS && treg == ABORTED && (tst != TCLEANED || create == WAITS) && create != TOLD -> create = IDLE; knows = false; trep = TCLEANED; tst = TCLEANED;
		if :: COMEBACK -> tree = NONE :: else fi }

	:: d_step { tup && tnode == UP && FAULT -> SPEND; tforget() }
	:: d_step { !tup && tnode == UP -> tup = true; trep = tst }

	/* ---- nodes and people ----------------------------------------------------- */
	:: d_step { !slost && tnode == UP && FAULT -> SPEND; slost = true; slostonce = true; sforget(); src = DEAD; if :: !FENCE_DURABLE -> fence = false :: else fi }
	:: d_step { tnode == UP && !slost && FAULT -> SPEND; tnode = LOST; copylost = copylost || tree >= MARKED; tforget(); create = IDLE; tree = NONE; if :: !MARK_DURABLE -> mark = false :: else fi }
	:: d_step { tnode == LOST && !nodeproof -> tnode = UP }
	:: d_step { tnode == LOST && !nodeproof -> nodeproof = true }
	/* pods of a node that is gone are removed */
	:: d_step { nodeproof && tnode != UP && tpod != GONE -> tpod = GONE }
	:: d_step { slost && spod != GONE -> spod = GONE }
	/* or it comes back */
	:: d_step { slost -> slost = false }
	/* a lie about a node that is only out of touch, and comes back */
	:: d_step { tnode == UP && tup && !slost && FAULT -> SPEND; tnode = CUT }
	:: d_step { tnode == CUT && !nodeproof -> nodeproof = true; falseproof = true }
	:: d_step { tnode == CUT -> tnode = UP }
	/* the volume spoils the set before it is verified */
	:: d_step { img == COMPLETE && reg == EMPTY && fly != A_COMMIT && FAULT -> SPEND; img = INCOMPLETE }
	/* a person deletes a pod */
	:: d_step { tpod == EXISTS && FAULT -> SPEND; tpod = DELETING; wanted = true }
	:: d_step { spod == EXISTS && FAULT -> SPEND; spod = DELETING; wanted = true }

	/* no more faults from here: what is stuck then is stuck for good */
	:: d_step { FAULT -> faults = 0 }

	:: ENDED_WELL || ENDED_BACK || UNDECIDED -> break
	:: slost && (reg == COMMITTED && TARGET_RUNS || reg != COMMITTED) -> break
	od
}
