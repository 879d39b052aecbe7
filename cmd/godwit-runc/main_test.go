// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
)

const (
	testPod = "3c0ffee0-0000-4000-8000-000000000001"
	testID  = "abc123"
)

// TestMain lets the test binary be the wrapper itself.
func TestMain(m *testing.M) {
	if os.Getenv("GODWIT_TEST_ROLE") == "wrapper" {
		_ = os.Unsetenv("GODWIT_TEST_ROLE")
		main()
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fakeRunc stands for runc: FAKE says how its restore goes. Every call is
// written to $DIR/calls.
const fakeRunc = `#!/bin/sh
echo "$*" >> "$DIR/calls"
root= bundle= pidfile= verb= log= work=
while [ $# -gt 0 ]; do
	case "$1" in
	--root) root=$2; shift ;;
	--log) log=$2; shift ;;
	--log-format) shift ;;
	--bundle) bundle=$2; shift ;;
	--pid-file) pidfile=$2; shift ;;
	--image-path) shift ;;
	--work-path) work=$2; shift ;;
	-*) ;;
	*) if [ -z "$verb" ]; then verb=$1; else id=$1; fi ;;
	esac
	shift
done
# criu runs in the container's cgroup; runc's descriptor 3 is not its.
criu() {
	sh -c 'mkdir -p "$CGROUP"; echo $$ > "$CGROUP/cgroup.procs"; exec sleep 300' < /dev/null > /dev/null 2>&1 3>&- &
	echo $! > "$DIR/criu"
}
# What criu does with its action script when the processes are complete.
letgo() {
	script=$(sed -n 's/^action-script //p' "$CRIU_CONFIG_FILE")
	for action in ${2:-post-restore pre-resume post-resume}; do
		echo "$action: $(ls "$GODWIT_HOLD" "$GODWIT_MARK" 2>/dev/null | tr '\n' ' ')" >> "$DIR/calls"
		CRTOOLS_SCRIPT_ACTION=$action CRTOOLS_INIT_PID=$1 GODWIT_TEST_ROLE=wrapper "$script" 3>&- 2>> "$DIR/calls"
	done
}
case "$verb" in
restore)
	echo "CRIU's configuration: $(cat "$CRIU_CONFIG_FILE")" >> "$DIR/calls"
	echo "descriptor 3 is $(readlink /proc/$$/fd/3)" >> "$DIR/calls"
	echo "huge pages: $(grep THP_enabled: /proc/$$/status)" >> "$DIR/calls"
	mkdir "$root/$id"
	if [ -n "$GODWIT_STANDIN_GO" ]; then
		# What runc does until it has started CRIU, and CRIU's stand-in after that.
		[ "$FAKE" != unprepared ] || { rm -r "$root/$id"; exit 1; }
		ls "$(dirname "$(command -v criu)")" >> "$DIR/calls"
		[ -z "$LIMITS" ] || { mkdir "$LIMITS/ctr"; echo 20000 100000 > "$LIMITS/ctr/cpu.max"; echo 4096 > "$LIMITS/ctr/memory.max"; echo max > "$LIMITS/ctr/memory.high"; }
		echo ready > "$GODWIT_STANDIN_READY"
		read -r go < "$GODWIT_STANDIN_GO"
		echo "told: $go" >> "$DIR/calls"
		[ -z "$LIMITS" ] || echo "limits: $(cat "$LIMITS/cpu.max" "$LIMITS/ctr/cpu.max" "$LIMITS/ctr/memory.max" | tr '\n' ' ')" >> "$DIR/calls"
		[ "$go" = go ] || { rm -r "$root/$id"; exit 1; }
	fi
	case "$FAKE" in
	ok | unprepared)
		sh -c 'exec sleep 300' < /dev/null > /dev/null 2>&1 3>&- &
		pid=$!
		[ -z "$CGROUP" ] || { mkdir -p "$CGROUP"; echo $pid > "$CGROUP/cgroup.procs"; }
		letgo $pid
		echo '{}' > "$root/$id/state.json"
		printf %s $pid > "$pidfile" ;;
	apart | apartlate)
		# The container has processes of its own, and CRIU's are in its cgroup as well.
		unshare --pid --fork --kill-child sleep 300 < /dev/null > /dev/null 2>&1 3>&- &
		criu=$!
		echo $criu > "$DIR/criu"
		mkdir -p "$CGROUP"
		until pid=$(cat /proc/$criu/task/$criu/children) && [ -n "$pid" ] && [ "$(readlink /proc/$pid/exe)" != "$(readlink /proc/$criu/exe)" ]; do sleep 0.01; done
		pid=${pid% }
		for p in $criu $pid; do echo $p > "$CGROUP/cgroup.procs"; done
		letgo $pid
		[ "$FAKE" = apart ] || exit 1
		echo '{}' > "$root/$id/state.json"
		printf %s $pid > "$pidfile" ;;
	late)
		# It runs, and then something fails after all.
		letgo 0
		exit 1 ;;
	gaveup)
		# CRIU fails after its processes are complete, and ends them.
		letgo 0 post-restore
		echo '(00.2) Error (criu/cr-restore.c:2): Restoring FAILED.' >> "$work/restore.log"
		exit 1 ;;
	killed)
		# CRIU is killed then, and what it held with ptrace runs.
		letgo 0 post-restore
		echo '(00.2) pie: 1: seccomp: mode 0' >> "$work/restore.log"
		exit 1 ;;
	lethang)
		criu
		letgo $(cat "$DIR/criu")
		wait $!
		exit 1 ;;
	ended)
		true &
		wait $!
		echo '{}' > "$root/$id/state.json"
		printf %s $! > "$pidfile" ;;
	fail)
		mkdir -p "$work"
		printf 'one\ntwo\n(00.1) Error (criu/x.c:1): cannot open pages\nthree\nfour\n(00.2) Error (criu/cr-restore.c:2): Restoring FAILED.\nfive\n' > "$work/restore.log"
		echo '{"level":"error","msg":"criu failed: type RESTORE","time":"x"}' >> "$log"
		exit 1 ;;
	nopid) ;;
	hang)
		echo '(01.2) pie: 1: Restoring' > "$work/restore.log"
		criu
		wait $!
		echo "runc saw criu end" >> "$DIR/calls"
		rm -rf "$root/$id"
		exit 1 ;;
	stuck)
		criu
		wait $!
		# It does not end although criu has.
		sleep 300 3>&- ;;
	esac ;;
delete) rm -rf "$root/$id" ;;
esac
exit 0
`

// rig is a node with a fake runc.
type rig struct {
	t      *testing.T
	dir    string
	cgroup string
	w      *wrapper
	rec    *recorder
}

// recorder is a Runtime that notes what is handed on instead of doing it.
type recorder struct {
	*runc
	forwarded [][]string
}

func (r *recorder) Exec(args []string) error {
	r.forwarded = append(r.forwarded, args)
	return nil
}

// newRig makes a node; fake says how the fake runc's restore goes.
func newRig(t *testing.T, fake string) *rig {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"root", "bundle/rootfs", "images", "work", "run"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	must(t, os.WriteFile(filepath.Join(dir, "criu.conf"), []byte("tcp-close\n"), 0o600))
	script := filepath.Join(dir, "runc")
	must(t, os.WriteFile(script, []byte(fakeRunc), 0o700))
	t.Setenv("DIR", dir)
	t.Setenv("FAKE", fake)
	r := &rig{t: t, dir: dir, rec: &recorder{runc: &runc{script}}}
	r.w = &wrapper{
		runc: r.rec, runDir: filepath.Join(dir, "run"), cgroupRoot: filepath.Join(dir, "cgroup"),
		limits: limits{create: 20 * time.Second, answer: 2 * time.Second, park: 10 * time.Second, agent: 200 * time.Millisecond, cleanup: 2 * time.Second, report: time.Second},
	}
	r.config(nil)
	return r
}

// config writes the bundle's config.json; annotations override the usual ones.
func (r *rig) config(annotations map[string]string) {
	r.t.Helper()
	all := map[string]string{
		annotationType: "container", annotationPodUID: testPod, annotationName: "app", annotationSandbox: "sand",
		annotationMigration: "default/mig",
	}
	for k, v := range annotations {
		if all[k] = v; v == "" {
			delete(all, k)
		}
	}
	b, err := json.Marshal(map[string]any{
		"annotations": all, "root": map[string]any{"path": "rootfs"},
		"linux": map[string]any{"cgroupsPath": "/ctr"},
	})
	must(r.t, err)
	must(r.t, os.WriteFile(filepath.Join(r.dir, "bundle", "config.json"), b, 0o600))
}

// args are containerd's for a verb.
func (r *rig) args(verb string, more ...string) []string {
	return slices.Concat(words("--root "+r.dir+"/root --log "+r.dir+"/log.json --log-format json"), []string{verb}, more)
}

func (r *rig) create() []string {
	return r.args("create", "--bundle", r.dir+"/bundle", "--pid-file", r.dir+"/pid", testID)
}

// consume marks the container as one whose images were restored once.
func (r *rig) consume() {
	h, err := wire.TakeHold(r.w.runDir, &wire.Request{PodUID: testPod, ContainerName: "app", ContainerID: "earlier"})
	must(r.t, err)
	must(r.t, h.Restored(&wire.Result{}))
	must(r.t, h.Release())
}

func (r *rig) holds() []wire.HoldState {
	r.t.Helper()
	h, err := wire.Holds(r.w.runDir, testPod, "app")
	if err != nil && exists(r.w.runDir+"/creates") {
		r.t.Fatal(err)
	}
	return h
}

func (r *rig) calls() string {
	b, _ := os.ReadFile(filepath.Join(r.dir, "calls"))
	return string(b)
}

// useCgroup gives the rig a cgroup v2 of its own, or skips the test.
func (r *rig) useCgroup() {
	r.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(r.t, err)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		root, err := os.MkdirTemp(f[1], "godwit-test-")
		if err != nil {
			continue
		}
		r.w.cgroupRoot, r.cgroup = root, filepath.Join(root, "ctr")
		r.t.Setenv("CGROUP", r.cgroup)
		r.t.Cleanup(func() {
			// The stand-in of CRIU joins in its own time: it may make the cgroup, or enter
			// it, when everything that was there has already been killed.
			for deadline := time.Now().Add(5 * time.Second); ; {
				must(r.t, killCgroup(r.cgroup, 5*time.Second))
				_ = os.Remove(r.cgroup)
				err := os.Remove(root)
				if err == nil {
					return
				}
				if time.Now().After(deadline) {
					r.t.Fatal(err)
				}
				time.Sleep(time.Millisecond) // that it is free can only be tried
			}
		})
		return
	}
	r.t.Skip("no writable cgroup v2 here")
}

// agent answers one conversation: each reply in turn, then it reads the result.
func (r *rig) agent(replies ...wire.Reply) (results <-chan wire.Result, requests <-chan wire.Request) {
	r.t.Helper()
	l, err := wire.Listen(r.w.runDir)
	must(r.t, err)
	r.t.Cleanup(func() { _ = l.Close() })
	res, req := make(chan wire.Result, 1), make(chan wire.Request, 1)
	go func() {
		defer close(res)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := wire.NewReader(conn)
		q := wire.Request{}
		if in.Read(&q) != nil {
			return
		}
		req <- q
		for _, reply := range replies {
			if reply.Version == 0 {
				reply.Version = wire.Version
			}
			if wire.Write(conn, &reply) != nil {
				return
			}
		}
		if len(replies) == 0 || replies[len(replies)-1].Verdict != wire.Restore {
			return
		}
		for {
			got := wire.Result{}
			if in.Read(&got) != nil {
				return
			}
			if !got.Prepared {
				res <- got
				return
			}
		}
	}()
	return res, req
}

// order is the agent's order to restore.
func (r *rig) order(timeout time.Duration) wire.Reply {
	return wire.Reply{Verdict: wire.Restore, Images: &wire.Images{
		Dir: r.dir + "/images", WorkDir: r.dir + "/work", CRIUConfig: r.dir + "/criu.conf", Timeout: timeout,
	}}
}

// prepare is the agent's order to prepare that.
func (r *rig) prepare() wire.Reply {
	reply := r.order(time.Minute)
	reply.Verdict = wire.Prepare
	return reply
}

// pidIn reads a process id that the fake runc wrote and has it killed at the end.
func (r *rig) pidIn(name string) int {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	must(r.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	must(r.t, err)
	r.t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return pid
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		st, err := readStat(pid)
		if err != nil || st.state == 'Z' || st.state == 'X' {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there (%c)", pid, st.state)
		}
		time.Sleep(5 * time.Millisecond) // other processes' ends can only be looked for
	}
}

// self runs this program as the wrapper.
func (r *rig) self(ctx context.Context, env []string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	must(r.t, err)
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), "GODWIT_TEST_ROLE=wrapper", "GODWIT_RUNC="+r.rec.path,
		"GODWIT_RUN_DIR="+r.w.runDir, "GODWIT_CGROUP_ROOT="+r.w.cgroupRoot)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// logged is the last error in runc's log, as containerd reads it.
func (r *rig) logged() string {
	b, err := os.ReadFile(filepath.Join(r.dir, "log.json"))
	if err != nil {
		return ""
	}
	last := ""
	dec := json.NewDecoder(strings.NewReader(string(b)))
	for dec.More() {
		var e struct {
			Level, Msg string
			Time       string
		}
		if err := dec.Decode(&e); err != nil {
			return fmt.Sprintf("undecodable: %v", err)
		}
		if e.Level == "error" {
			last = e.Msg
		}
	}
	return last
}

// waitFor waits for something that other processes bring about.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
		time.Sleep(5 * time.Millisecond) // it can only be looked for
	}
}

// sigMask is a signal mask of a process as the kernel shows it.
func sigMask(t *testing.T, pid int, field string) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			must(t, err)
			return n
		}
	}
	t.Fatalf("no %s", field)
	return 0
}
