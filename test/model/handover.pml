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
 *
 * -DSAMENAME makes it the model of a pod that keeps its name: the target's pod is only a
 * placeholder, and what is restored into is made when the source is gone.
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
#define REPLACING 6
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
#define A_RETRY 5

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

#ifdef SAMENAME
/* the pod of the name, since the source is gone; which one it is, the placeholder is 0;
 * and the one before, what its create does and what is restored of it on the node, when
 * it was removed by force */
byte npod = GONE, made = 0;
byte ocreate = IDLE, otree = NONE;
bool omark = false;
/* the webhook has let a pod be the target, and it is not stored yet */
bool taking = false;
/* status.target: which pod it names, restoreStartedAt, treeGoneAt; and whether the boot
 * in which the restore began is over */
byte uid = 0;
bool begun = false, gone = false, rebooted = false;
#endif

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

#ifdef SAMENAME
/* the caches of the controller and of the target's agent */
byte cuid = 0, tuid = 0;
bool cbegun = false, cgone = false;
/* target agent: its own report; it has published that it begins, and is about to read
 * the Migration once more; it has the connection of the older pod's create */
bool tbegun = false, telling = false, oknows = false;
#endif

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
#ifdef SAMENAME
#define SEEN (cphase == phase && creg == reg && csst == sst && ctst == tst && cuid == uid && cbegun == begun && cgone == gone)
#else
#define SEEN (cphase == phase && creg == reg && csst == sst && ctst == tst)
#endif
#ifdef NO_ABORT_VERSION    /* the controller's writes test the version they were decided on */
#define VERSION true
#else
#define VERSION SEEN
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
#ifdef NO_DELETE_CONFIRMED /* the source pod is deleted when the target is confirmed, or given up */
#define DELETE_CONFIRMED true
#else
#ifdef SAMENAME
#define DELETE_CONFIRMED (phase == REPLACING || phase == COMPLETING)
#else
#define DELETE_CONFIRMED (phase == COMPLETING)
#endif
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

#ifdef NO_IMAGES_STAY      /* the images stay until the target is confirmed */
#define IMAGES_STAY false
#else
#define IMAGES_STAY true
#endif
#ifdef SAMENAME
#ifdef NO_PLACEHOLDER      /* nothing is restored into the placeholder */
#define PLACEHOLDER false
#else
#define PLACEHOLDER true
#endif
#ifdef NO_RECLAIM_EARLY    /* the owner's sake counts before Replacing only */
#define RECLAIM_EARLY (cphase == SW || cphase == REPLACING)
#else
#define RECLAIM_EARLY (cphase == SW)
#endif
#ifdef NO_RULE             /* the API takes nothing back from Replacing on */
#define RULE true
#else
#define RULE (phase == SW)
#endif
#ifdef NO_POLICY           /* the API keeps the name from pods that the webhook has not made the target */
#define POLICY false
#else
#define POLICY true
#endif
#ifdef NO_MAY_STEER        /* which it does not when a restore has begun */
#define MAY_STEER true
#else
#define MAY_STEER (!begun && !gone && tst != RESTORED)
#endif
#ifdef NO_MAY_FOLLOW       /* and the controller names none then */
#define MAY_FOLLOW true
#else
#define MAY_FOLLOW (!cbegun && !cgone && ctst != RESTORED)
#endif
#ifdef NO_BEGUN_FIRST      /* a restore is published before it begins */
#define BEGUN_FIRST false
#else
#define BEGUN_FIRST true
#endif
#ifdef NO_LIVE_UID         /* and then the Migration, read past the cache, must name the pod */
#define LIVE_UID true
#else
#define LIVE_UID (uid == tuid && begun)
#endif
#ifdef NO_BOOT             /* nothing is restored again in another boot */
#define OTHER_BOOT false
#else
#define OTHER_BOOT (tbegun && rebooted)
#endif
#ifdef NO_RETRY_PROOF      /* a restore is forgotten after the proof that nothing is left */
#define RETRY_PROOF true
#else
#define RETRY_PROOF proven
#endif
#ifdef NO_RETRY_ONCE       /* and this is stored in the version that was looked at, or not at all */
#define RETRY_ONCE false
#else
#define RETRY_ONCE true
#endif
#ifdef NO_MARK_KEPT        /* the mark of a pod that is gone is kept while it is the target */
#define MARK_KEPT false
#else
#define MARK_KEPT true
#endif
#ifdef NO_FORGETS          /* what was published of a pod is taken back when another is the target */
#define FORGETS false
#else
#define FORGETS true
#endif
#ifdef NO_LOAD_AGREES      /* a report that was read past the cache is about the pod that the cache names */
#define LOAD_AGREES false
#else
#define LOAD_AGREES true
#endif
#endif

/* ---- properties ---------------------------------------------------------- */

/* 1 == 1 to 4 == 4 name the invariants (a) to (d) of docs/protocol.md in spin's
 * report. */

#define SOURCE_RUNS (src == RUNS || src == FRESH)
#define TARGET_RUNS (tree == LIVES || tree == FRESHT)
#ifdef SAMENAME
/* nobody has to restore it now: the images are the pod */
#define BEING_RESTORED (reg == COMMITTED && img == COMPLETE || tree == MARKED || otree >= MARKED)
#define RUNS_TWICE (SOURCE_RUNS && (TARGET_RUNS || otree == LIVES) || TARGET_RUNS && otree == LIVES)
#else
#define BEING_RESTORED (reg == COMMITTED && img == COMPLETE && !mark && !proven || tree == MARKED)
#define RUNS_TWICE (SOURCE_RUNS && TARGET_RUNS)
#endif

inline judge() {
	/* (a) */
	assert(!(RUNS_TWICE && 1 == 1) || falseproof);
	/* (b) */
	assert(!(src == DEAD && !TARGET_RUNS && !BEING_RESTORED && 2 == 2) || slostonce || copylost || wanted || overrun)
}

/* (c) a container was started from its image by accident */
#define FRESH_START assert(!(tnode <= CUT && 3 == 3))

/* (d) the source goes on from a past that the target has gone beyond, or the
 * target does so twice */
#ifdef SAMENAME
#define ONLY_FUTURE assert(!(ran && 4 == 4))
#else
#define ONLY_FUTURE assert(!(ran && 4 == 4) || nodeproof && !said)
#endif

/* ---- steps that are used twice ------------------------------------------- */

#define CAN_COMMIT (COMMIT_EMPTY && COMMIT_PHASE && COMMIT_DIGEST && FINALITY)
#define CAN_ABORT (ABORT_EMPTY && FINALITY)

#ifdef SAMENAME
/* another pod is the target: what waits of the one before is given back, and what was
 * reported of it is no more */
inline turn() {
	if
	:: tuid != uid ->
		if
		:: tuid == made && create == WAITS && knows -> create = IDLE; knows = false
		:: tuid != made && ocreate == WAITS && oknows -> ocreate = IDLE; oknows = false
		:: else
		fi;
		tuid = uid; tbegun = false; ended = false; proven = false
	:: else
	fi
}
inline tcache() { tphase = phase; treg = reg; tsst = sst; turn() }
inline ccache() { cphase = phase; creg = reg; csst = sst; ctst = tst; cuid = uid; cbegun = begun; cgone = gone }
#define TSEEN (tphase == phase && treg == reg && tsst == sst && tuid == uid)
#define IN_FLIGHT (telling || judging)
inline tforget() { tup = false; own = false; knows = false; ended = false; judging = false; proven = false; trep = GATED;
	tbegun = false; telling = false; oknows = false }
#else
inline tcache() { tphase = phase; treg = reg; tsst = sst }
inline ccache() { cphase = phase; creg = reg; csst = sst; ctst = tst }
#define TSEEN (tphase == phase && treg == reg && tsst == sst)
#define IN_FLIGHT false
inline tforget() { tup = false; own = false; knows = false; ended = false; judging = false; proven = false; trep = GATED }
#endif
inline scache() { sphase = phase; sreg = reg }

inline sforget() { sup = false; sdumping = false; srep = CONVERGED }

#define COMMITTED_FOR_TARGET (treg == COMMITTED || own && treg == EMPTY)
#define TARGET_WORKS (tup && tnode == UP && !judging)
/* what a person, or the node when it comes back, has to decide */
#define UNDECIDED (reg == COMMITTED && (src == STILL || overrun || slostonce || wanted) && (tnode != UP || !TARGET_RUNS && ran || mark && tree == NONE))

#ifdef SAMENAME
#define ALONE (tpod == GONE)
#define LEFT_TO_PERSON (reg == COMMITTED && phase == REPLACING && (gone || tnode != UP) || made == PODS && npod == GONE)
#define FIRST_POD (made == 0 && tuid == 0)
/* bound of the pods that are made under the name */
#ifndef PODS
#define PODS 3
#endif
#else
#define ALONE true
#define LEFT_TO_PERSON UNDECIDED
#define FIRST_POD true
#endif
#define ENDED_WELL (phase == SUCCEEDED && src == DEAD && (TARGET_RUNS || wanted || copylost) && ALONE)
#define ENDED_BACK (phase == FAILED && (src == RUNS || slost || slostonce && (src == FRESH || spod == GONE) || overrun || wanted) && tree == NONE && create == IDLE)

#ifdef SAMENAME
/* The steps of the target's agent about one pod of the name, under a commit. is: it is
 * about this one; the others are its create and what is restored of it, and whether the
 * agent has the connection; no: the pod is no more. */
#define REPLACES (TARGET_WORKS && treg == COMMITTED && tphase == REPLACING && !telling)
#define OF_POD(is, create_, tree_, mark_, knows_, no) \
	:: d_step { REPLACES && (is) && create_ == WAITS && knows_ && !mark_ && !OTHER_BOOT && !ended && !proven && tst != RESTORED && !gone -> \
		telling = true; if :: BEGUN_FIRST && !tbegun -> begun = true; tbegun = true; rebooted = false :: else fi } \
	:: d_step { tup && tnode == UP && telling && (is) -> telling = false; \
		if \
		:: reg == COMMITTED && phase == REPLACING && (LIVE_UID || !BEGUN_FIRST && uid == tuid) && create_ == WAITS && knows_ -> \
			assert(!(img != COMPLETE && 2 == 2) || falseproof); create_ = TOLD; tree_ = STARTING; \
			if :: !BEGUN_FIRST -> tbegun = true :: else fi \
		:: else \
		fi } \
	:: d_step { REPLACES && (is) && mark_ && tree_ == LIVES && tst != RESTORED -> begun = tbegun; trep = RESTORED; tst = RESTORED; said = true; ended = false } \
	/* it failed */ \
	:: d_step { REPLACES && (is) && tbegun && !mark_ && tst != RESTORED && !proven && !OTHER_BOOT && (ended || create_ == IDLE || create_ == TOLD && !knows_ && (no)) -> judging = true } \
	:: d_step { tup && tnode == UP && judging && (is) && create_ != TOLD -> judging = false; \
		if :: tree_ == STARTING :: else -> tree_ = NONE fi; \
		if :: MARK_AGAIN && mark_ :: else -> proven = true fi; judge() } \
	:: d_step { REPLACES && (is) && (ended || proven) && RETRY_PROOF && !mark_ && tst != RESTORED -> AGAIN; judge() } \
	:: d_step { REPLACES && (is) && proven && !RETRY_ONCE && !mark_ && tst != RESTORED && FAULT && fly == NOTHING -> SPEND; fly = A_RETRY; AGAIN; judge() } \
	/* it has run, or may have, and is gone */ \
	:: d_step { REPLACES && (is) && !gone && (mark_ && tree_ == NONE && create_ != TOLD || OTHER_BOOT || tst == RESTORED && (tree_ == NONE || (no))) -> \
		gone = true; begun = tbegun; if :: create_ == WAITS -> create_ = IDLE; knows_ = false :: else fi; tree_ = NONE; judge() }

#ifdef NO_RETRY            /* it is tried again, and nothing taken back */
#define AGAIN proven = false; ended = false; if :: RULE -> reg = ABORTED :: else fi
#else
#define AGAIN begun = false; tbegun = false; proven = false; ended = false
#endif
#endif

active proctype everything() {
	do

	/* ---- the API: watches deliver when they like -------------------------- */
	:: d_step { !SEEN -> ccache() }
	:: d_step { sup && !(sphase == phase && sreg == reg) -> scache() }
	:: d_step { tup && tnode == UP && !TSEEN && !IN_FLIGHT -> tcache() }

	/* a write under way arrives, or never does */
	:: d_step { fly == A_COMMIT -> fly = NOTHING; if :: CAN_COMMIT -> reg = COMMITTED :: else fi; judge() }
	:: d_step { fly == AN_ABORT -> fly = NOTHING; if :: CAN_ABORT -> reg = ABORTED :: else fi; judge() }
#ifndef SAMENAME
	:: d_step { fly == A_TAKEBACK -> fly = NOTHING; if :: reg == COMMITTED -> reg = ABORTED :: else fi; judge() }
#endif
#ifdef SAMENAME
	:: d_step { fly == A_RETRY -> fly = NOTHING; begun = false }
#endif
	:: d_step { fly == A_DIGEST -> fly = NOTHING; sst = DUMPED }
	:: d_step { fly != NOTHING -> fly = NOTHING }

	/* ---- controller ------------------------------------------------------- */
	:: d_step { cphase == PRE && creg == EMPTY && ctst == PARKED && VERSION -> phase = SW; ccache() }
	/* a user cancels, a deadline passes, an agent has given up */
	:: d_step { cphase <= SW && creg == EMPTY && VERSION && FINALITY -> reg = ABORTED; phase = ROLLING; ccache(); judge() }
#ifdef SAMENAME
	/* the owner would not make the pod again, or it is given up */
	:: d_step { creg == COMMITTED && RECLAIM_EARLY && VERSION && RULE -> reg = ABORTED; phase = ROLLING; ccache(); judge() }
	:: d_step { creg == COMMITTED && cphase == SW && VERSION -> phase = REPLACING; ccache() }
	:: d_step { creg == COMMITTED && cphase == REPLACING && npod == EXISTS && cuid != made && MAY_FOLLOW && VERSION -> uid = made; ccache() }
	:: d_step { creg == COMMITTED && cphase == REPLACING && npod == EXISTS && tpod == EXISTS && !cdelt -> cdelt = true }
	/* it may not have seen yet that the pod was removed */
	:: d_step { creg == COMMITTED && cphase == REPLACING && cuid != 0 && !cgone && tpod != EXISTS && COMPLETE_RESTORED && VERSION -> phase = COMPLETING; wanted = wanted || npod != EXISTS || uid != made; ccache() }
#else
	:: d_step { creg == COMMITTED && cphase != COMPLETING && cphase != SUCCEEDED && COMPLETE_RESTORED && VERSION -> phase = COMPLETING; ccache() }
#endif
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
	:: d_step { sup && sreg == COMMITTED && (sphase == COMPLETING || sphase == SUCCEEDED || sphase == REPLACING) && KILL_POD_GONE && src == STILL -> src = DEAD; judge() }
	:: d_step { sup && sreg == COMMITTED && (sphase == COMPLETING || sphase == SUCCEEDED || !IMAGES_STAY && sphase == REPLACING) && KILL_POD_GONE && src == DEAD && sst != CLEANED -> srep = CLEANED; sst = CLEANED; img = REMOVED; judge() }

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
	:: d_step { create == IDLE && tree == NONE && tpod == EXISTS && tnode == UP && tup && ONCE && treg != ABORTED && tphase <= SW && trep != UNABLE && !ended && !proven && !judging && FIRST_POD -> create = WAITS; knows = true }
#ifdef SAMENAME
	/* a pod is created of which the cache says that it is the target: before, it has a gate */
	:: d_step { create == IDLE && tree == NONE && npod == EXISTS && tnode == UP && tup && !mark && made != 0 && tuid == made && tphase == REPLACING && tst != RESTORED && !gone && !ended && !proven && !judging ->
		create = WAITS; knows = true; begun = tbegun }
#else
	:: d_step { create == IDLE && tree == NONE && tpod == EXISTS && tnode == UP && mark && FRESH_CONFIRMED && (tst == RESTORED || reg == COMMITTED) ->
		if :: tst == RESTORED -> tree = FRESHT :: else -> FRESH_START fi; judge() }
	:: d_step { create == IDLE && tree == NONE && tpod == EXISTS && tnode == UP && !tup && !mark && !FAIL_CLOSED -> FRESH_START }
#endif
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
#ifdef SAMENAME
	:: d_step { tpod == DELETING && tnode == UP && (create != TOLD || made != 0) -> tpod = GONE;
		if :: made == 0 -> create = IDLE; knows = false; tree = NONE :: else fi; judge() }
	:: d_step { npod == DELETING && tnode == UP && create != TOLD -> npod = GONE; create = IDLE; knows = false; tree = NONE; judge() }
	/* what is left of a pod that was removed by force */
	:: d_step { npod == GONE && made != 0 && tnode == UP && create != TOLD && (create == WAITS || tree != NONE) -> create = IDLE; knows = false; tree = NONE; judge() }
	:: d_step { tnode == UP && ocreate != TOLD && (ocreate == WAITS || otree != NONE) -> ocreate = IDLE; oknows = false; otree = NONE; judge() }
	/* and its mark */
	:: d_step { tup && tnode == UP && npod == GONE && mark && tree == NONE && create == IDLE && !MARK_KEPT -> mark = false }
	:: d_step { tup && tnode == UP && omark && otree == NONE && ocreate == IDLE && !(MARK_KEPT && uid + 1 == made) -> omark = false }
	/* meanwhile it goes on */
	:: d_step { ocreate == WAITS && TARGET_WORKS && !oknows -> oknows = true }
	:: d_step { ocreate == TOLD && otree == STARTING -> otree = MAKING }
	:: d_step { otree == MAKING -> omark = true; otree = MARKED }
	:: d_step { otree == MARKED -> ONLY_FUTURE; otree = LIVES; ran = true; if :: ocreate == TOLD -> ocreate = IDLE :: else fi; judge() }
	:: d_step { ocreate == TOLD && !omark && (otree == STARTING || otree == MAKING) -> otree = NONE; ocreate = IDLE; ended = ended || oknows && tuid != made; judge() }
	:: d_step { ocreate == TOLD && otree == MARKED -> otree = NONE; omark = false; ocreate = IDLE; ended = ended || oknows && tuid != made; judge() }

	/* ---- the pod's owner ------------------------------------------------------- */
	/* it makes the pod again: the webhook answers, and the API stores it later */
	:: d_step { spod == GONE && npod == GONE && !taking && reg == COMMITTED && phase == REPLACING && MAY_STEER && made < PODS -> taking = true }
	:: d_step { taking && ocreate == IDLE && otree == NONE && (uid + 1 != made || !begun && !omark) -> taking = false; npod = EXISTS; made++;
		ocreate = create; otree = tree; omark = mark; oknows = knows; create = IDLE; tree = NONE; mark = false; knows = false }
	/* the webhook is not reached */
	:: d_step { spod == GONE && npod == GONE && !taking && reg == COMMITTED && phase == REPLACING && !POLICY && FAULT -> FRESH_START }
#else
	:: d_step { tpod == DELETING && tnode == UP && create != TOLD -> tpod = GONE; create = IDLE; knows = false; tree = NONE; judge() }
#endif

	/* ---- target agent -------------------------------------------------------- */
	:: d_step { TARGET_WORKS && treg == EMPTY && tphase <= SW && create == WAITS && knows && trep == GATED && tst == GATED -> trep = PARKED; tst = PARKED }
	/* parked too long, or the set is not what it should be */
	:: d_step { TARGET_WORKS && treg == EMPTY && !own && tphase <= SW && create == WAITS && knows && trep == PARKED -> trep = UNABLE; tst = UNABLE; create = IDLE; knows = false }
	:: d_step { TARGET_WORKS && treg == EMPTY && !own && tphase == SW && AWAIT_DIGEST && VERIFIED && create == WAITS && knows && trep == PARKED ->
		if :: CAN_COMMIT -> reg = COMMITTED; own = true :: else fi; tcache(); judge() }
	:: d_step { TARGET_WORKS && treg == EMPTY && !own && tphase == SW && AWAIT_DIGEST && VERIFIED && create == WAITS && knows && trep == PARKED && FAULT && fly == NOTHING ->
		SPEND; fly = A_COMMIT }
#ifdef SAMENAME
	/* the place is kept no longer */
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && PLACEHOLDER && tuid == 0 && made == 0 && create == WAITS && knows -> create = IDLE; knows = false }
	:: d_step { TARGET_WORKS && COMMITTED_FOR_TARGET && !PLACEHOLDER && tuid == 0 && made == 0 && create == WAITS && knows && (own || LIVE_REGISTER) -> create = TOLD; tree = STARTING }
	OF_POD(tuid == made && made != 0, create, tree, mark, knows, npod != EXISTS)
	OF_POD(tuid + 1 == made && tuid != 0, ocreate, otree, omark, oknows, true)
	/* what is not true of this pod is not said of it */
	:: d_step { REPLACES && FORGETS && !tbegun && begun -> begun = false }
	:: d_step { tup && tnode == UP && IN_FLIGHT && tuid + 1 < made -> telling = false; judging = false }
#else
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
#endif
	/* aborted */
	:: d_step { TARGET_WORKS && treg == ABORTED && (tst != TCLEANED || create == WAITS) && create != TOLD -> create = IDLE; knows = false; trep = TCLEANED; tst = TCLEANED;
		if :: COMEBACK -> tree = NONE :: else fi }

	:: d_step { tup && tnode == UP && FAULT -> SPEND; tforget() }
#ifdef SAMENAME
	/* it has the report from the API, and a cache of any age */
	:: d_step { !tup && tnode == UP && tuid == uid -> tup = true; trep = tst; tbegun = begun }
	:: d_step { !tup && tnode == UP && tuid != uid -> tup = true; trep = tst; tphase = phase; treg = reg; tsst = sst; tuid = uid; tbegun = begun }
	:: d_step { !tup && tnode == UP && !LOAD_AGREES -> tup = true; trep = tst; tuid = 0; tbegun = begun }
#else
	:: d_step { !tup && tnode == UP -> tup = true; trep = tst }
#endif

	/* ---- nodes and people ----------------------------------------------------- */
	:: d_step { !slost && tnode == UP && FAULT -> SPEND; slost = true; slostonce = true; sforget(); src = DEAD; if :: !FENCE_DURABLE -> fence = false :: else fi }
#ifdef SAMENAME
	:: d_step { tnode == UP && !slost && FAULT -> SPEND; tnode = LOST; copylost = copylost || tree >= MARKED || otree >= MARKED || mark;
		tforget(); create = IDLE; tree = NONE; mark = false; ocreate = IDLE; otree = NONE; omark = false; rebooted = rebooted || begun }
	:: d_step { nodeproof && tnode != UP && npod != GONE -> npod = GONE; copylost = copylost || begun }
#else
	:: d_step { tnode == UP && !slost && FAULT -> SPEND; tnode = LOST; copylost = copylost || tree >= MARKED; tforget(); create = IDLE; tree = NONE; if :: !MARK_DURABLE -> mark = false :: else fi }
#endif
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
#ifdef SAMENAME
	:: d_step { tpod == EXISTS && FAULT -> SPEND; tpod = DELETING }
	:: d_step { npod == EXISTS && phase == REPLACING && FAULT -> SPEND; npod = DELETING; wanted = wanted || begun }
	/* or removes it by force */
	:: d_step { npod != GONE && phase == REPLACING && FAULT -> SPEND; npod = GONE; wanted = wanted || begun }
#else
	:: d_step { tpod == EXISTS && FAULT -> SPEND; tpod = DELETING; wanted = true }
#endif
	:: d_step { spod == EXISTS && FAULT -> SPEND; spod = DELETING; wanted = true }

	/* no more faults from here: what is stuck then is stuck for good */
	:: d_step { FAULT -> faults = 0 }

	:: ENDED_WELL || ENDED_BACK || LEFT_TO_PERSON -> break
	:: slost && (reg == COMMITTED && TARGET_RUNS || reg != COMMITTED) -> break
	od
}
