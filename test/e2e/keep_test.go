// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

const (
	// pinnedAddress is one of the nodes' network that no node has.
	pinnedAddress = "10.100.0.200"
	talkPort      = 7000
	// pouredLines are more than the buffers of a connection take.
	pouredLines = 100_000
	// talkPatience is longer than any downtime of an emulated node that has little time, and
	// the pause of a peer between its last two tries, which is as long again, up to 2 minutes.
	talkPatience = 6 * time.Minute
)

// pinAddresses has the nodes' network plugin give pods the addresses that they ask for,
// until the test ends.
func (s *scenario) pinAddresses() {
	s.Helper()
	const conflist = "/etc/cni/net.d/10-godwit.conflist"
	for _, n := range s.Nodes.Nodes() {
		s.must(n.CopyTo(s.ctx, filepath.Join(s.NodeTests, "pinned"), "/opt/cni/bin/pinned"))
		old, err := n.Output(s.ctx, "cat "+conflist)
		s.must(err)
		var conf map[string]any
		s.must(json.Unmarshal([]byte(old), &conf))
		plugins := conf["plugins"].([]any)
		plugins[0] = map[string]any{"type": "pinned", "delegate": plugins[0], "capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true}}
		changed, err := json.Marshal(conf)
		s.must(err)
		s.must(n.WriteFile(s.ctx, conflist, bytes.NewReader(changed), 0o644))
		s.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := n.WriteFile(ctx, conflist, strings.NewReader(old+"\n"), 0o644); err != nil {
				s.Errorf("the network configuration of %s: %v", n.Name, err)
			}
		})
	}
}

// talker is a pod that has the address.
func (s *scenario) talker(name string) *corev1.Pod {
	pod := harness.Pod(s.namespace, name, s.Memhog)
	pod.Annotations = map[string]string{harness.AddressAnnotation: pinnedAddress}
	pod.Spec.Containers[0].Command = []string{"/usr/local/bin/talk"}
	return pod
}

// talking runs a StatefulSet with one pod that has the address, and a Service.
func (s *scenario) talking() (pod *corev1.Pod, service string) {
	s.Helper()
	labels, one := map[string]string{"app": "talk"}, int32(1)
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "talk"},
		Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 70, TargetPort: intstr.FromInt32(talkPort)}}}}
	s.must(s.Create(s.ctx, svc))
	template := s.talker("talk")
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "talk"},
		Spec: appsv1.StatefulSetSpec{Replicas: &one, ServiceName: "talk", Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: template.Annotations}, Spec: template.Spec}}}
	s.must(s.Create(s.ctx, set))
	s.eventually("a pod with the address", func() (bool, string) {
		s.must(s.AwaitFor(s.ctx, scenarioTimeout, set, "the StatefulSet", func(bool) (bool, error) { return set.Status.AvailableReplicas == 1, nil }))
		pod = s.pod("talk-0")
		if pod.Status.PodIP != pinnedAddress {
			// containerd takes a moment to see its new configuration.
			s.must(s.Delete(s.ctx, pod))
			s.must(s.AwaitPodGone(s.ctx, pod))
		}
		return pod.Status.PodIP == pinnedAddress, pod.Status.PodIP
	})
	return pod, net.JoinHostPort(svc.Spec.ClusterIP, "70")
}

// conversation is a connection to the pod on which each number is said once.
type conversation struct {
	name string
	conn net.Conn
	in   *bufio.Reader
	n    int
	// longest time that an answer took.
	longest time.Duration
}

func (s *scenario) connect(name, address, first string) *conversation {
	s.Helper()
	conn, err := net.DialTimeout("tcp4", address, time.Minute)
	s.must(err)
	s.Cleanup(func() { _ = conn.Close() })
	c := &conversation{name: name, conn: conn, in: bufio.NewReaderSize(conn, 64)}
	_, err = io.WriteString(conn, first+"\n")
	s.must(err)
	return c
}

// say says the next number and waits for its answer.
func (c *conversation) say() error {
	begun := time.Now()
	if err := c.conn.SetDeadline(begun.Add(talkPatience)); err != nil {
		return err
	}
	line := fmt.Sprintln(c.n + 1)
	if _, err := io.WriteString(c.conn, line); err != nil {
		return fmt.Errorf("%s, after %d: %w", c.name, c.n, err)
	}
	answer, err := c.in.ReadString('\n')
	if err != nil || answer != line {
		return fmt.Errorf("%s: %q was answered with %q, %w", c.name, line, answer, err)
	}
	c.n++
	c.longest = max(c.longest, time.Since(begun))
	return nil
}

// talk says number after number until stop is called, which returns what went wrong.
func (c *conversation) talk() (stop func() error) {
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-done:
				ended <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := c.say(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return sync.OnceValue(func() error { close(done); return <-ended })
}

// pour fills the buffers of a connection in both directions. The end of what is written
// is only there when the other side reads.
func (s *scenario) pour() (c *conversation, wrote chan error) {
	s.Helper()
	c, wrote = s.connect("pouring", net.JoinHostPort(pinnedAddress, fmt.Sprint(talkPort)), fmt.Sprint("pour ", pouredLines)), make(chan error, 1)
	tcp := c.conn.(*net.TCPConn)
	s.must(errors.Join(tcp.SetReadBuffer(32<<10), tcp.SetWriteBuffer(32<<10)))
	go func() {
		out := bufio.NewWriter(tcp)
		for i := range pouredLines {
			fmt.Fprintln(out, i+1)
		}
		fmt.Fprintln(out, "end")
		wrote <- out.Flush()
	}()
	time.Sleep(2 * time.Second) // nothing tells that all buffers are full
	return c, wrote
}

// poured reads what was written to a connection, and what the other side has read.
func (s *scenario) poured(c *conversation, wrote chan error) {
	s.Helper()
	s.must(c.conn.SetDeadline(time.Now().Add(talkPatience)))
	for i := range pouredLines {
		line, err := c.in.ReadString('\n')
		if want := fmt.Sprintln(i + 1); err != nil || line != want {
			s.Fatalf("%s: %q instead of %q, %v", c.name, line, want, err)
		}
	}
	s.must(<-wrote)
	line, err := c.in.ReadString('\n')
	if want := fmt.Sprintf("received %d\n", pouredLines); err != nil || line != want {
		s.Fatalf("%s: %q instead of %q, %v", c.name, line, want, err)
	}
}

// TCP connections of a pod that keeps its address go on: through a move that is given up
// while the pod is frozen, one to the other node and one back. No byte of them is lost or
// comes twice: of one that is used all the time, one through a Service, one that nobody
// uses meanwhile, and one whose buffers are full in both directions.
func TestConnectionsAreKept(t *testing.T) {
	s := begin(t)
	s.pinAddresses()
	s.longer(2)
	pod, service := s.talking()
	direct := net.JoinHostPort(pinnedAddress, fmt.Sprint(talkPort))
	idle := s.connect("idle", direct, "talk")
	s.must(idle.say())
	full, wrote := s.pour()
	busy, served := s.connect("busy", direct, "talk"), s.connect("through the Service", service, "talk")
	talkers := []*conversation{busy, served}
	moved := func(name string, move func()) {
		s.step(name, func() {
			s.Helper()
			var stops []func() error
			for _, c := range talkers {
				c.longest = 0
				stop := c.talk()
				s.Cleanup(func() { _ = stop() })
				stops = append(stops, stop)
			}
			move()
			for i, stop := range stops {
				s.must(stop())
				s.must(talkers[i].say())
				s.Logf("%s, %s: %d numbers, the longest answer took %s", name, talkers[i].name, talkers[i].n, talkers[i].longest.Round(time.Millisecond))
			}
		})
	}
	keep := func(spec *v1alpha1.MigrationSpec) { spec.Connections = v1alpha1.ConnectionsKeep }

	moved("given up", func() {
		m := s.migration("given-up", pod.Name, keep, func(spec *v1alpha1.MigrationSpec) {
			spec.SwitchoverTimeout = &metav1.Duration{Duration: 20 * time.Second}
		})
		s.await(m, "the source to be frozen", harness.SourceState(v1alpha1.SourceFrozen))
		agent, err := s.AgentOn(s.ctx, m.Status.Target.NodeName)
		s.must(err)
		release := s.held(agent)
		s.await(m, "the hand-over to be aborted", func(m *v1alpha1.Migration) bool { return m.Status.Handover != nil })
		release()
		s.finish(m, v1alpha1.PhaseFailed)
		s.stayed(m, pod)
	})
	s.must(idle.say())
	for _, name := range []string{"there", "back"} {
		moved(name, func() {
			m := s.migration(name, pod.Name, keep)
			was := pod
			pod = s.arrived(m)
			s.keepsItsName(pod, was)
			if pod.Status.PodIP != pinnedAddress {
				s.Errorf("its address is %s", pod.Status.PodIP)
			}
			if !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionConnectionsKept) {
				s.Errorf("%+v\n%s", meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionConnectionsKept), harness.Summary(m))
			}
			s.nothingLeft(m)
			s.nothingHeld()
		})
		s.must(idle.say())
	}
	release := s.connect("release", direct, "release")
	if line, err := release.in.ReadString('\n'); err != nil || line != "released\n" {
		t.Fatalf("%q, %v", line, err)
	}
	s.poured(full, wrote)

	s.must(s.Delete(s.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "talk"}}))
	s.must(s.AwaitPodGone(s.ctx, pod))
	pod = s.start(s.talker("bare"))
	talkers = []*conversation{s.connect("busy", direct, "talk")}
	moved("of no controller", func() {
		m := s.migration("bare", pod.Name, keep)
		if now := s.arrived(m); now.Name != pod.Name || now.Status.PodIP != pinnedAddress {
			s.Errorf("%s is %s, with the address %s", pod.Name, now.Name, now.Status.PodIP)
		}
		s.nothingLeft(m)
		s.nothingHeld()
	})
}

// nothingHeld checks that no node holds an address.
func (s *scenario) nothingHeld() {
	s.Helper()
	for _, n := range s.Nodes.Nodes() {
		if out, err := n.Output(s.ctx, "nft list tables | grep godwit || true"); err != nil || out != "" {
			s.Errorf("%s: %q, %v", n.Name, out, err)
		}
	}
}
