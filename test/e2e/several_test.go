// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/images/catalog"
)

// voices are the containers of a chorus and their ports; see test/workloads/chorus.
var voices = []struct {
	name string
	port int
}{{"side", 9001}, {"lead", 9002}, {"second", 9003}}

// notes are what a voice has noted.
type notes struct {
	Incarnation                          string
	Count, Heard                         uint64
	Refused, Lost, Silent, SetBack, Torn uint64
}

// chorusPod has three containers that run, the first of them a sidecar, and one that
// has run before them.
func chorusPod(namespace, name string) *corev1.Pod {
	pod := harness.Pod(namespace, name, catalog.Ref(catalog.Memhog))
	var all []corev1.Container
	for _, v := range voices {
		var peers []string
		for _, p := range voices {
			if p != v {
				peers = append(peers, fmt.Sprint(p.port))
			}
		}
		all = append(all, corev1.Container{
			Name: v.name, Image: catalog.Ref(catalog.Memhog), ImagePullPolicy: corev1.PullIfNotPresent,
			Command:      []string{"/usr/local/bin/chorus"},
			Env:          harness.Env(fmt.Sprintf("PORT=%d", v.port), "PEERS="+strings.Join(peers, ","), "SOCKETS=/sockets", "LOGS=/logs"),
			VolumeMounts: []corev1.VolumeMount{{Name: "sockets", MountPath: "/sockets"}, {Name: "logs", MountPath: "/logs"}},
		})
	}
	all[0].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	// Kubelet asks it while it stands still on the target, too.
	all[2].LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
		PeriodSeconds: 60, FailureThreshold: 3, TimeoutSeconds: 5,
	}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "sockets", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "logs", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	before := corev1.Container{
		Name: "before", Image: catalog.Ref(catalog.Memhog), ImagePullPolicy: corev1.PullIfNotPresent,
		Command: []string{"sh", "-c", "echo once >> /dev/shm/before"},
	}
	pod.Spec.InitContainers = []corev1.Container{before, all[0]}
	pod.Spec.Containers = all[1:]
	return pod
}

// chorus is a pod of several containers that is followed.
type chorus struct {
	*scenario
	pod *corev1.Pod
	was map[string]notes
}

func (s *scenario) chorus(name string) *chorus {
	s.Helper()
	c := &chorus{scenario: s, pod: s.start(chorusPod(s.namespace, name))}
	s.eventually("the voices to hear each other", func() (bool, string) {
		c.was = c.notes(c.pod)
		for _, n := range c.was {
			if n.Heard < 100 {
				return false, fmt.Sprintf("%+v", c.was)
			}
		}
		return true, ""
	})
	return c
}

// notes asks every voice.
func (c *chorus) notes(pod *corev1.Pod) map[string]notes {
	c.Helper()
	all := map[string]notes{}
	for _, v := range voices {
		out, err := c.KubectlRun(c.ctx, "-n", c.namespace, "exec", pod.Name, "-c", v.name, "--", "sh", "-c",
			fmt.Sprintf("(echo s; sleep 0.5) | nc 127.0.0.1 %d", v.port))
		c.must(err)
		var n notes
		line, _, _ := strings.Cut(out, "\n")
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			c.Fatalf("%s said %q: %v", v.name, out, err)
		}
		all[v.name] = n
	}
	return all
}

// goesOn checks that all voices are those that were followed, have gone on counting,
// and that none has ever found another missing. Their connections may have been closed:
// those over Unix sockets, and, if they have moved, those over TCP.
func (c *chorus) goesOn(pod *corev1.Pod, moved bool) {
	c.Helper()
	now := c.notes(pod)
	c.Logf("noted: %+v", now)
	for name, n := range now {
		was := c.was[name]
		if n.Incarnation != was.Incarnation {
			c.Errorf("%s is another process: %s, was %s", name, n.Incarnation, was.Incarnation)
		}
		if n.Count <= was.Count || n.Heard <= was.Heard {
			c.Errorf("%s does not go on: %+v after %+v", name, n, was)
		}
		if n.Refused != was.Refused || n.Silent != was.Silent {
			c.Errorf("%s found another missing: %+v after %+v", name, n, was)
		}
		if n.SetBack != was.SetBack || n.Torn != was.Torn {
			c.Errorf("%s found another set back, or their shared memory torn: %+v after %+v", name, n, was)
		}
		// Over a Unix socket one, and another that nobody has accepted, in every freeze;
		// over TCP one in a restore.
		lost := 2 * uint64(len(voices)-1)
		if moved {
			lost += uint64(len(voices) - 1)
		}
		if n.Lost-was.Lost > lost {
			c.Errorf("%s lost %d connections", name, n.Lost-was.Lost)
		}
	}
	for _, v := range voices {
		out := strings.TrimSpace(c.sh(pod.Name, fmt.Sprintf(`awk '$1 != NR { print "line " NR " is " $1; exit } END { print NR }' /logs/%d`, v.port)))
		if n, err := strconv.ParseUint(out, 10, 64); err != nil || n < now[v.name].Count/25 {
			c.Errorf("the log of %s: %s", v.name, out)
		}
	}
	if out := c.sh(pod.Name, "cat /dev/shm/before"); out != "once\n" {
		c.Errorf("the init container has run again: %q", out)
	}
	c.pod, c.was = pod, now
}

// A pod with three containers, one of them a sidecar, moves there and back.
// They talk over the loopback interface and over Unix sockets in a shared volume,
// and share memory, and none of them ever finds another missing.
func TestSeveralContainers(t *testing.T) {
	s := begin(t)
	s.randomizeAddresses()
	c := s.chorus("chorus")
	for _, name := range []string{"there", "back"} {
		s.step(name, func() {
			c.T = s.T
			m := s.migration(name, c.pod.Name)
			pod := s.arrived(m)
			for _, st := range pod.Status.InitContainerStatuses {
				if st.RestartCount != 0 {
					s.Errorf("init container %s was restarted %d times", st.Name, st.RestartCount)
				}
			}
			c.goesOn(pod, true)
			if n := len(m.Status.Source.Containers); n != len(voices) {
				s.Errorf("%d containers were copied\n%s", n, harness.Summary(m))
			}
			for _, tc := range m.Status.Target.Containers {
				if tc.Restore == nil {
					s.Errorf("nothing is known of the restore of %s\n%s", tc.Name, harness.Summary(m))
				} else {
					s.Logf("%s: restore took %s", tc.Name, tc.Restore.Duration.Duration)
				}
			}
			s.nothingLeft(m)
		})
	}
}

// The restore of the second container fails when the first was restored and stands
// still: all of it is discarded, and the source goes on as if nothing had been.
func TestSecondRestoreFails(t *testing.T) {
	s := begin(t)
	c := s.chorus("chorus")
	m := s.migration("fails", c.pod.Name)
	s.await(m, "the target to be scheduled", func(m *v1alpha1.Migration) bool { return m.Status.Target != nil && m.Status.Target.NodeName != "" })
	target, err := s.Nodes.Node(m.Status.Target.NodeName)
	s.must(err)
	// CRIU's own process, as soon as there is one for that container.
	killed := make(chan error, 1)
	go func() {
		_, err := target.Output(s.ctx, `end=$((SECONDS+240)); while [ $SECONDS -lt $end ]; do
			for d in /proc/[0-9]*; do
				read -r -d '' c 2>/dev/null < $d/cmdline || continue
				case $c in *runc) ;; *) continue;; esac
				tr '\0' ' ' < $d/cmdline 2>/dev/null | grep -q ' restore .*/lead/restore' || continue
				kill -KILL ${d#/proc/} && echo killed && exit
			done; done; exit 1`)
		killed <- err
	}()
	s.finish(m, v1alpha1.PhaseFailed)
	s.must(<-killed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonRestoreFailed {
		s.Errorf("failure %+v, want %s\n%s", f, v1alpha1.ReasonRestoreFailed, harness.Summary(m))
	}
	if h := m.Status.Handover; h == nil || h.State != v1alpha1.HandoverAborted || h.By != "target/"+target.Name {
		s.Errorf("hand-over %+v", h)
	}
	s.stayed(m, c.pod)
	if out, err := target.Output(s.ctx, "! grep -l "+strings.ReplaceAll(string(m.Status.Target.PodUID), "-", "_")+" /proc/[0-9]*/cgroup 2>/dev/null"); err != nil {
		s.Errorf("%s still runs processes of the target: %s, %v", target.Name, out, err)
	}
	c.goesOn(c.pod, false)
}
