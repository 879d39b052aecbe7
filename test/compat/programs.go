// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/redisload"
	"godwit.dev/godwit/test/images/catalog"
)

// program is a row of the table.
type program struct {
	// name is of the row; title is for people.
	name, title string
	// image in the catalog.
	image string
	// has is what the program holds and uses, as far as it matters here.
	has string
	// setting is what it needs to be moved, "" for nothing.
	setting string
	// refused is the reason that it is refused for, "" if it is to move.
	refused string
	// env of the container, as "NAME=value".
	env []string
	// confined is by the runtime's own seccomp profile.
	confined bool
	// labels of the pod.
	labels map[string]string
	port   int32
	// emptyDir is where one is mounted, "" for none.
	emptyDir string
	// version is a command in the container.
	version string
	// connect makes the client of the server at an address.
	connect func(ctx context.Context, address string) (client, error)
	// dial opens a session with it, which has no patience of its own.
	dial func(ctx context.Context, address string) (session, error)
}

// client works on a server's data as its users do.
type client interface {
	redisload.Store
	// Self is what the server says of itself.
	Self(ctx context.Context) (self, error)
	Close()
}

// session is one connection on which one question follows another. It waits for an
// answer as long as the connection stands.
type session interface {
	Ask(ctx context.Context) error
	Close()
}

// goVersion finds the compiler's version in a program.
const goVersion = "strings /usr/local/bin/goserver | grep -m 1 -o '^go1[.0-9]*'"

// programs is the table.
func programs() []program {
	var list []program
	list = append(list, program{
		name: "redis", title: "Redis", image: catalog.Redis,
		has: "threads, an event loop, pooled connections", port: 6379, version: "redis-server --version",
		connect: connectRedis, dial: dialRedis,
	}, program{
		name: "postgres", title: "PostgreSQL", image: catalog.Postgres,
		has:  "a tree of processes, System V and POSIX shared memory, signalfd, files, a session in a process of its own for each client",
		port: 5432, version: "/usr/lib/postgresql/17/bin/postgres --version",
		connect: connectPostgres, dial: dialPostgres,
	})
	for _, p := range []program{
		{name: "nginx", title: "nginx", image: catalog.Nginx, version: "nginx -v 2>&1",
			has: "a master and workers with shared memory, files put by WebDAV, a growing log", connect: connectNginx},
		{name: "jvm", title: "JVM, the JDK's HTTP server", image: catalog.JVM,
			has: "compiled code, a garbage collector, some thirty threads, mapped performance data", version: "/usr/lib/jvm/java-21-openjdk-amd64/bin/java -version 2>&1 | head -n 1"},
		{name: "python", title: "Python, a thread for each connection, SQLite", image: catalog.Python,
			has: "a database in WAL mode on an emptyDir: a mapped file, POSIX locks", emptyDir: "/data", version: "python3 --version"},
		{name: "node", title: "Node.js", image: catalog.Node,
			has:     "epoll and eventfds of libuv, timers, watches of files (inotify), a pool of threads",
			setting: "`securityContext.seccompProfile.type: RuntimeDefault`", confined: true, version: "node --version"},
		{name: "node-io-uring", title: "Node.js, as it is", image: catalog.Node, version: "node --version",
			has: "a ring of io_uring, libuv's default in this version", refused: v1alpha1.ReasonIOUring},
		{name: "go", title: "Go, net/http", image: catalog.GoServer, version: goVersion,
			has: "goroutines, epoll", setting: "`GODEBUG=multipathtcp=0`", env: []string{"GODEBUG=multipathtcp=0"}},
		{name: "go-label", title: "Go, net/http, as it is, in a labelled pod", image: catalog.GoServer, version: goVersion,
			has:     "a listener of TCP: the node has switched Multipath TCP off in the pod's network",
			setting: "the pod's label `" + runtime.LabelMultipathTCP + ": \"" + runtime.MultipathTCPOff + "\"`",
			labels:  map[string]string{runtime.LabelMultipathTCP: runtime.MultipathTCPOff}},
		{name: "go-mptcp", title: "Go, net/http, as it is", image: catalog.GoServer, version: goVersion,
			has: "a listener for Multipath TCP, Go's default since 1.24", refused: v1alpha1.ReasonMultipathTCP},
		{name: "everything", title: "Our `test/workloads/everything`", image: catalog.Everything, version: "echo ours",
			has: "inotify, timerfd, signalfd, eventfd, epoll, memfd, an open deleted file, a FIFO, flock and POSIX locks, a process tree with pipes, pidfds, a zombie, " +
				"POSIX and System V shared memory, a socket pair with a message in it, a growing log, umask, limits, working directory"},
	} {
		p.port = 8080
		if p.connect == nil {
			p.connect = connectHTTP
		}
		p.dial = dialHTTP(p.name)
		list = append(list, p)
	}
	return list
}

// pod of the program.
func (p program) pod() *corev1.Pod {
	pod := harness.Pod(namespace, p.name, catalog.Ref(p.image), harness.Env(p.env...)...)
	maps.Copy(pod.Labels, p.labels)
	c := &pod.Spec.Containers[0]
	if p.confined {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	}
	if p.emptyDir != "" {
		pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: p.emptyDir}}
	}
	c.ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(p.port)}},
		PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 3,
	}
	return pod
}

// versionOf makes one line of what the command of a version prints.
func versionOf(out string) string {
	return strings.Join(strings.Fields(out), " ")
}
