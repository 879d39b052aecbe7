// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/test/chaos/continuity"
	"godwit.dev/godwit/test/harness"
)

const (
	namespace = "chaos"
	// logPort of the log outside the cluster.
	logPort = 7007
	// settleLimit bounds the time until exactly one pod is ready.
	settleLimit = 4 * time.Minute
	// pollInterval for what cannot be watched: a whole set of pods.
	pollInterval = 500 * time.Millisecond
)

// campaign is what all runs share.
type campaign struct {
	*harness.Harness
	namespace string
	// image of the workload.
	image string
	load  load
	log   *continuity.Log
	// off are nodes without power.
	off map[string]bool
	// number of the last migration, which its name ends with.
	number int
	out    io.Writer
}

func (c *campaign) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.out, format+"\n", args...)
}

// open installs what is tested and starts the workload.
func open(ctx context.Context, out io.Writer, seed uint64) (*campaign, error) {
	config, err := harness.ConfigFromEnvironment()
	if err != nil {
		return nil, err
	}
	config.Godwit = os.Getenv("FAILPOINTS_IMAGE")
	image := os.Getenv("SEQUENCE_IMAGE")
	if config.Godwit == "" || image == "" {
		return nil, errors.New("FAILPOINTS_IMAGE or SEQUENCE_IMAGE is not set: use make chaos")
	}
	h, err := harness.New(config, out)
	if err != nil {
		return nil, err
	}
	c := &campaign{Harness: h, namespace: namespace, image: image, load: newLoad(seed), off: map[string]bool{}, out: out}
	if err := c.clearPoints(ctx); err != nil {
		return nil, err
	}
	if err := h.Install(ctx); err != nil {
		return nil, err
	}
	if err := c.showManagerThePoints(ctx); err != nil {
		return nil, err
	}
	return c, c.openLog()
}

// showManagerThePoints mounts the directory of the failpoints into the manager,
// which sees nothing of its node otherwise.
func (c *campaign) showManagerThePoints(ctx context.Context) error {
	_, err := c.KubectlRun(ctx, "-n", harness.Namespace, "patch", "deployment", harness.Release+"-manager", "--type=strategic", "--patch",
		fmt.Sprintf(`{"spec": {"template": {"spec": {
			"volumes": [{"name": "failpoints", "hostPath": {"path": %[1]q, "type": "DirectoryOrCreate"}}],
			"containers": [{"name": "manager", "volumeMounts": [{"name": "failpoints", "mountPath": %[1]q}]}]}}}}`, failpoint.Dir))
	if err != nil {
		return err
	}
	return c.AwaitReady(ctx)
}

// openLog opens the log at this end of the nodes' network.
func (c *campaign) openLog() error {
	// Nothing is sent: the kernel only looks up the way.
	conn, err := net.Dial("udp4", net.JoinHostPort(c.Nodes.Nodes()[0].IP, "9"))
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	_ = conn.Close()
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(c.Artifacts, "sequence.log"))
	if err != nil {
		return err
	}
	c.log, err = continuity.Listen(net.JoinHostPort(host, fmt.Sprint(logPort)), f)
	return err
}

// startWorkload makes the namespace anew with the one pod in it.
func (c *campaign) startWorkload(ctx context.Context, of workload) error {
	if err := c.FreshNamespace(ctx, c.namespace); err != nil {
		return err
	}
	pod := harness.Pod(c.namespace, "sequence", c.image, harness.Env(
		"LOG="+c.log.Address(),
		fmt.Sprintf("SIZE_MIB=%d", c.load.sizeMiB),
		fmt.Sprintf("PAGES=%d", c.load.pages),
		fmt.Sprintf("INTERVAL_MS=%d", c.load.intervalMS),
	)...)
	var err error
	if of == bare {
		pod.Spec.NodeName = "n1"
		pod, err = c.Start(ctx, pod)
	} else if err = c.Create(ctx, of.object(pod)); err == nil {
		pod, err = c.onlyPod(ctx)
	}
	if err != nil {
		return fmt.Errorf("start the workload: %w", err)
	}
	return c.hear(ctx, pod)
}

// object is the workload controller that makes pods like this one.
func (of workload) object(pod *corev1.Pod) client.Object {
	meta := metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}
	selector := &metav1.LabelSelector{MatchLabels: pod.Labels}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}
	if of == deployment {
		return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}
	}
	return &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: selector, ServiceName: pod.Name, Template: template}}
}

// owns says why the pod's workload controller does not have it as it had its source.
func (c *campaign) owns(pod *corev1.Pod) error {
	if ref := metav1.GetControllerOf(pod); ref == nil {
		return fmt.Errorf("pod %s is nobody's", pod.Name)
	}
	if release, left := pod.Annotations[v1alpha1.AnnotationRelease]; left {
		return fmt.Errorf("pod %s is released: %s", pod.Name, release)
	}
	return nil
}

// onlyPod returns the workload's pod once there is exactly one and it is ready.
func (c *campaign) onlyPod(ctx context.Context) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		var pods corev1.PodList
		err := c.List(ctx, &pods, client.InNamespace(c.namespace))
		if err == nil && len(pods.Items) == 1 && pods.Items[0].DeletionTimestamp == nil && harness.Ready(&pods.Items[0]) {
			return &pods.Items[0], nil
		}
		if ctx.Err() != nil {
			msg := ""
			for i := range pods.Items {
				p := &pods.Items[i]
				msg += fmt.Sprintf(" %s on %s is %s, ready %v, deleted %v;", p.Name, p.Spec.NodeName, p.Status.Phase, harness.Ready(p), p.DeletionTimestamp != nil)
			}
			return nil, fmt.Errorf("not exactly one ready pod within %s:%s %w", settleLimit, msg, errors.Join(err, ctx.Err()))
		}
		sleep(ctx, pollInterval)
	}
}

// freshen replaces our own pods that have been restarted: kubelet would let
// them wait longer after each kill.
func (c *campaign) freshen(ctx context.Context) error {
	if err := c.AwaitReady(ctx); err != nil {
		return err
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(harness.Namespace)); err != nil {
		return err
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if harness.Restarts(p) == 0 {
			continue
		}
		if err := c.Delete(ctx, p); err != nil {
			return notFoundIsFine(err)
		}
		if err := c.AwaitPodGone(ctx, p); err != nil {
			return err
		}
	}
	return c.AwaitReady(ctx)
}

// repair brings the cluster back to a state to begin a run with, after one that
// has failed.
func (c *campaign) repair(ctx context.Context, of workload) error {
	var errs []error
	for node := range c.off {
		errs = append(errs, c.Nodes.PowerOn(ctx, node))
		delete(c.off, node)
	}
	errs = append(errs, c.Nodes.ResumeAPI(ctx), c.Nodes.StartNFS(ctx), c.Nodes.FreeVolume(ctx), c.Nodes.HealAPI(ctx), c.clearPoints(ctx))
	var all v1alpha1.MigrationList
	errs = append(errs, c.List(ctx, &all, client.InNamespace(c.namespace)))
	for i := range all.Items {
		m := &all.Items[i]
		before := m.DeepCopy()
		m.Finalizers = nil
		errs = append(errs, notFoundIsFine(c.Patch(ctx, m, client.MergeFrom(before))), notFoundIsFine(c.Delete(ctx, m)))
	}
	var pods corev1.PodList
	errs = append(errs, c.List(ctx, &pods, client.InNamespace(c.namespace)))
	for i := range pods.Items {
		errs = append(errs, notFoundIsFine(c.Delete(ctx, &pods.Items[i], client.GracePeriodSeconds(0))))
	}
	errs = append(errs, c.onNodes(ctx, `pkill -9 -x sequence
		for p in $(pgrep -x godwit-runc); do tr "\0" " " < /proc/$p/cmdline | grep -q " create " && kill -9 $p; done
		for d in /sys/fs/cgroup/kubepods.slice/*/*/cri-containerd-*.scope; do echo 0 > $d/cgroup.freeze; done
		rm -rf /run/godwit/work/* /run/godwit/restoring/* /dev/shm/godwit/* `+harness.ImagesDir+`/*-*-*; true`))
	errs = append(errs, c.freshen(ctx), c.startWorkload(ctx, of))
	return errors.Join(errs...)
}

func notFoundIsFine(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
