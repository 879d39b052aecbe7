// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// writer goes on writing into a volume on disk, one in memory and the root file system,
// and into a file that has no name any more, beside the test server.
const writer = `exec 7>>/vol/open.log 8<>/vol/nameless; rm /vol/nameless; n=0
while :; do
	n=$((n+1)); echo $n >&7; echo $n >> /fast/log; echo $n >> /var/tmp/log; echo $n >&8
	[ $((n % 10)) != 0 ] || { rm -rf /vol/now; mkdir -p /vol/now/$n; echo $n > /vol/now/$n/file; }
	sleep 0.1
done & exec /usr/local/bin/memhog`

// layout is what a volume can have.
const layout = `set -e; cd /vol
head -c 20000000 /dev/urandom > big; head -c 300000 /dev/urandom > /fast/random
mkdir -m 1770 dir; echo inner > dir/inner; ln dir/inner hard; ln -s dir/inner soft; ln -s /etc/passwd outside
mkfifo -m 620 fifo; truncate -s 50M sparse; echo end >> sparse
echo owned > owned; chown 1234:4321 owned; chmod 4750 owned
echo part > /part/file; touch removed
mkdir -p /var/tmp/deep/er; echo layered > /var/tmp/deep/er/file; rm -rf /etc/update-motd.d /etc/issue
rm -rf /etc/profile.d; mkdir /etc/profile.d; echo new > /etc/profile.d/new.sh
sha256sum big /fast/random > sums`

// look shows it.
const look = `cd /vol; sha256sum -c sums; cat dir/inner hard soft /part/file part/file /var/tmp/deep/er/file; readlink outside
stat -c '%n %a %u:%g %h' dir dir/inner hard fifo owned; stat -c '%n %s' sparse; [ $(du -k sparse | cut -f1) -lt 1000 ] && echo holes
[ dir/inner -ef hard ] && echo linked; ls /etc/profile.d; ls -d /etc/issue /etc/update-motd.d removed later 2>&1 | sed 's/.*: \(.*\): .*/\1/'
stat -c '%a %u:%g' . /fast; cat /conf/key /down/name`

// Volumes that live and die with a pod travel with it, there and back and there again:
// what is in them is copied while the pod runs. Those that kubelet fills are the new
// pod's own.
func TestVolumes(t *testing.T) {
	s := begin(t)
	s.must(s.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "conf"}, Data: map[string]string{"key": "value\n"}}))
	s.must(s.Create(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "secret"}, StringData: map[string]string{"password": "hidden"}}))
	pod := s.volumesPod()
	s.start(pod)
	p := s.follow(pod)
	s.sh(pod.Name, layout)
	before := s.sh(pod.Name, look)
	token := s.token(pod.Name)

	for i, name := range []string{"there", "back", "again"} {
		was := p.pod.Name
		m := s.migration(name, was, func(spec *v1alpha1.MigrationSpec) { spec.TargetPodName = name })
		p.log("before-" + name)
		p.continues(s.arrived(m))
		s.logFiles(m)
		if after := s.sh(p.pod.Name, look); after != before {
			t.Errorf("%s: the files are\n%s\nand were\n%s", name, after, before)
		}
		s.writesOn(p.pod.Name)
		if i == 0 {
			s.copiedWhileItRan(m)
		}
		if now := s.token(p.pod.Name); now == token {
			t.Errorf("%s: the token is the other pod's", name)
		} else {
			s.isToken(now, p.pod)
			token = now
		}
		if out := s.sh(p.pod.Name, "cat /secret/password"); out != "hidden" {
			t.Errorf("%s: the secret is %q", name, out)
		}
		p.logGoesOn()
		if i == 0 {
			s.sh(p.pod.Name, "rm /vol/removed; touch /vol/later")
			before = s.sh(p.pod.Name, look)
			if !strings.Contains(before, "\nlater\n") || !strings.Contains(before, "\nremoved\n") {
				t.Errorf("the files are\n%s", before)
			}
		}
		s.nothingLeft(m)
	}
}

// A large file that is open for writing is read again while the pod is frozen, for its times
// prove nothing, but only what has changed of it is copied.
func TestALargeOpenFile(t *testing.T) {
	s := begin(t)
	pod := s.MemhogPod(s.namespace, "database", "SIZE_MIB=16", "DIRTY_MIB_PER_SECOND=1")
	pod.Spec.Volumes = []corev1.Volume{{Name: "db", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "db", MountPath: "/db"}}
	c.Command = []string{"/bin/sh", "-c", `head -c 134217728 /dev/urandom > /db/file; exec 7<>/db/file; n=0
while :; do n=$((n+1)); echo $n | dd of=/db/file bs=64 seek=$((n * 7 % 64 * 2048)) conv=notrunc 2>/dev/null; sleep 0.5; done & exec /usr/local/bin/memhog`}
	s.start(pod)
	p := s.follow(pod)
	m := s.migration("move", pod.Name)
	p.continues(s.arrived(m))
	s.logFiles(m)
	v := m.Status.Source.Volumes
	if len(v) == 0 || v[0].Index != 0 || v[0].Bytes < 128<<20 {
		t.Fatalf("the volume was copied like this: %+v", v)
	}
	if last := v[len(v)-1]; last.Index == *m.Status.Source.Round && last.Bytes > 4<<20 {
		t.Errorf("%d bytes were copied while the pod was frozen", last.Bytes)
	}
	if out := strings.TrimSpace(s.sh(p.pod.Name, "stat -c %s /db/file")); out != "134217728" {
		t.Errorf("the file has %s bytes", out)
	}
}

func (s *scenario) volumesPod() *corev1.Pod {
	pod := s.MemhogPod(s.namespace, "traveller", "SIZE_MIB=32", "DIRTY_MIB_PER_SECOND=1", "PATTERN=hot")
	c := &pod.Spec.Containers[0]
	c.Command = []string{"/bin/sh", "-c", writer}
	c.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr.To(int64(0)), RunAsGroup: ptr.To(int64(0))}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium: corev1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("32Mi")),
		}}},
		{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret"}}},
		{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}},
		}}}},
	}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "disk", MountPath: "/vol"}, {Name: "disk", MountPath: "/part", SubPath: "part"}, {Name: "memory", MountPath: "/fast"},
		{Name: "conf", MountPath: "/conf"}, {Name: "secret", MountPath: "/secret"}, {Name: "down", MountPath: "/down"},
	}
	return pod
}

// writesOn checks that nothing of what the writer has written is lost or there twice, and
// that it goes on.
func (s *scenario) writesOn(pod string) {
	s.Helper()
	const count = `awk '$1 != NR { print "line " NR " is " $1; exit } END { print NR }' `
	for _, file := range []string{"/vol/open.log", "/fast/log", "/var/tmp/log"} {
		first := strings.TrimSpace(s.sh(pod, count+file))
		n, err := strconv.Atoi(first)
		if err != nil || n == 0 {
			s.Errorf("%s: %s", file, first)
			continue
		}
		s.eventually(file+" to grow", func() (bool, string) {
			now := strings.TrimSpace(s.sh(pod, count+file))
			more, err := strconv.Atoi(now)
			return err == nil && more > n, now
		})
	}
	// The file without a name is one of the writer's descriptors.
	out := s.sh(pod, `for p in /proc/[0-9]*; do [ -e $p/fd/8 ] && awk '$1 != NR { bad = 1 } END { print bad ? "wrong" : "whole" }' $p/fd/8; done`)
	if !strings.Contains(out, "whole") || strings.Contains(out, "wrong") {
		s.Errorf("the file without a name: %q", out)
	}
}

// copiedWhileItRan checks that most of the volumes was not copied while the pod was frozen.
func (s *scenario) copiedWhileItRan(m *v1alpha1.Migration) {
	s.Helper()
	v := m.Status.Source.Volumes
	if len(v) < 2 || v[0].Index != 0 || v[0].Bytes < 20000000 {
		s.Fatalf("the volumes were copied like this: %+v", v)
	}
	if last := v[len(v)-1]; last.Index != *m.Status.Source.Round || last.Bytes > 2<<20 {
		s.Errorf("%d bytes were copied while the pod was frozen: %+v", last.Bytes, v)
	}
}

// logFiles says what copying files took.
func (s *scenario) logFiles(m *v1alpha1.Migration) {
	var b strings.Builder
	for _, v := range m.Status.Source.Volumes {
		fmt.Fprintf(&b, " volumes %d: %d bytes in %s;", v.Index, v.Bytes, v.Duration.Round(time.Millisecond))
	}
	for _, c := range m.Status.Source.Containers {
		for _, r := range c.Rounds {
			if r.Files != nil {
				fmt.Fprintf(&b, " root %d: %d bytes in %s;", r.Index, r.Files.Bytes, r.Files.Duration.Round(time.Millisecond))
			}
		}
		if d := c.FinalDump; d != nil && d.Files != nil {
			fmt.Fprintf(&b, " root at last: %d bytes in %s of %s frozen", d.Files.Bytes, d.Files.Duration.Round(time.Millisecond), d.Frozen.Round(time.Millisecond))
		}
	}
	s.Logf("%s:%s", m.Name, b.String())
}

func (s *scenario) token(pod string) string {
	s.Helper()
	return strings.TrimSpace(s.sh(pod, "cat /var/run/secrets/kubernetes.io/serviceaccount/token"))
}

// isToken checks that the API server takes the token for that pod's.
func (s *scenario) isToken(token string, pod *corev1.Pod) {
	s.Helper()
	r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	s.must(s.Create(s.ctx, r))
	if uid := r.Status.User.Extra["authentication.kubernetes.io/pod-uid"]; !r.Status.Authenticated || len(uid) != 1 || uid[0] != string(pod.UID) {
		s.Errorf("the token is none of %s: %+v", pod.UID, r.Status)
	}
}

// A move changes nothing of what a container may do, nor of what it is limited to.
func TestSecurityContext(t *testing.T) {
	s := begin(t)
	pod := s.MemhogPod(s.namespace, "confined", "SIZE_MIB=16", "DIRTY_MIB_PER_SECOND=1")
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		FSGroup: ptr.To(int64(2000)), SupplementalGroups: []int64{3000},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	c.SecurityContext = &corev1.SecurityContext{
		RunAsUser: ptr.To(int64(1007)), RunAsGroup: ptr.To(int64(1008)), RunAsNonRoot: ptr.To(true),
		AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
	}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("700m"), corev1.ResourceMemory: resource.MustParse("256Mi")}
	s.start(pod)
	p := s.follow(pod)
	s.sh(pod.Name, "echo mine > /scratch/mine")
	before := s.confinement(p.pod)
	for _, want := range []string{"Uid:\t1007", "Gid:\t1008", "NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000", "cpu.max 70000 100000", "memory.max 268435456", "2000 3000", "\n/ ro", "confined"} {
		if !strings.Contains(before, want) {
			t.Errorf("before the move there is no %q in\n%s", want, before)
		}
	}
	for _, name := range []string{"there", "back"} {
		p.continues(s.arrived(s.migration(name, p.pod.Name)))
		if after := s.confinement(p.pod); after != before {
			t.Errorf("%s: the process is confined differently:\n%s", name, changed(before, after))
		}
		if out := s.sh(p.pod.Name, "cat /scratch/mine; echo more >> /scratch/mine; stat -c %g /scratch; touch /no 2>&1 | sed 's/.*: //'"); !strings.Contains(out, "mine\n") || !strings.HasSuffix(out, "2000\nRead-only file system\n") {
			t.Errorf("%s: the file systems: %q", name, out)
		}
	}
}

// changed are the lines that two texts do not have in common.
func changed(before, after string) string {
	var b strings.Builder
	was, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range was {
		if !slices.Contains(now, l) {
			b.WriteString("- " + l + "\n")
		}
	}
	for _, l := range now {
		if !slices.Contains(was, l) {
			b.WriteString("+ " + l + "\n")
		}
	}
	return b.String()
}

// confinement is what the node says of a pod's first process. Of the devices that mask
// files (/proc/kcore and others) it says that they are there, not how they are mounted:
// runc takes the container's own /dev/null for a new container and the node's for a
// restored one, and nosuid means nothing for a device that nobody can execute.
func (s *scenario) confinement(pod *corev1.Pod) string {
	s.Helper()
	on := s.look(pod)
	pids, err := on.Processes(s.ctx)
	s.must(err)
	if len(pids) == 0 {
		s.Fatalf("pod %s has no process", pod.Name)
	}
	dir, err := on.Cgroup(s.ctx)
	s.must(err)
	out, err := on.Output(s.ctx, fmt.Sprintf(`cd /proc/%d; grep -E '^(Uid|Gid|Groups|Cap.*|NoNewPrivs|Seccomp|Seccomp_filters|Umask):' status
		awk '{ print $5, $4 == "/null" ? "masked" : $6 }' mountinfo | sort; cat oom_score_adj limits
		for f in cpu.max cpu.weight memory.max memory.high memory.swap.max pids.max; do echo $f $(cat %s/$f); done
		nsenter -t %d -u hostname`, pids[0], dir, pids[0]))
	s.must(err)
	return out
}

// A container that was restarted before has its log carried over, there and back: what
// kubectl logs shows goes on line by line.
func TestLogsAreCarriedOver(t *testing.T) {
	s := begin(t)
	pod := s.MemhogPod(s.namespace, "writer", "SIZE_MIB=16", "DIRTY_MIB_PER_SECOND=1")
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	c.Command = []string{"/bin/sh", "-c", `[ -e /scratch/once ] || { touch /scratch/once; echo it crashes; exit 1; }
(n=0; while :; do n=$((n+1)); echo number $n; sleep 0.2; done) & exec /usr/local/bin/memhog`}
	s.must(s.Create(s.ctx, pod))
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, pod, "the second start", func(bool) (bool, error) {
		return harness.Restarts(pod) == 1 && harness.Ready(pod), nil
	}))
	p := s.follow(pod)
	last := 0
	for _, name := range []string{"there", "back"} {
		m := s.migration(name, p.pod.Name, func(spec *v1alpha1.MigrationSpec) { spec.LogPolicy, spec.TargetPodName = v1alpha1.LogCarryOver, name })
		p.continues(s.arrived(m))
		// What is there first, and ten more than that.
		last = 0
		s.eventually("the log to go on", func() (bool, string) {
			out, err := s.KubectlRun(s.ctx, "-n", s.namespace, "logs", p.pod.Name)
			s.must(err)
			n := 0
			for line := range strings.Lines(out) {
				if text, ok := strings.CutPrefix(strings.TrimSpace(line), "number "); ok {
					n++
					if text != strconv.Itoa(n) {
						s.Fatalf("%s: line %d says %q", name, n, text)
					}
				}
			}
			more := last > 0 && n > last+10
			if last == 0 || more {
				last = n
			}
			return more, fmt.Sprint(n, " lines")
		})
	}
}
