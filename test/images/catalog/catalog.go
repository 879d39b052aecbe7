// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package catalog names the images that the tests run: what is in them and
// how they start. Adding a workload means adding a row to [All].
package catalog

// Suite is the Debian suite that packages are taken from. It is the suite of
// the test nodes too, whatever the machine that builds the images runs.
const Suite = "trixie"

// Prefix begins every image's reference. The host part "localhost" keeps a
// container engine from ever looking for the image in a registry.
const Prefix = "localhost/"

// Tag is the tag of every image's reference.
const Tag = "dev"

// Names of the images, as the command line and [Find] know them.
const (
	// Godwit is our own image, made from the Dockerfile.
	Godwit = "godwit"
	// Failpoints is our own image with the marks of internal/failpoint compiled
	// in, which only the fault tests run.
	Failpoints = "failpoints"
	// Redis is redis-server, redis-cli and a small shell.
	Redis = "redis"
	// Memhog is the memory-dirtying test server, one voice of a chorus of containers, a
	// server that talks, and a small shell.
	Memhog = "memhog"
	// Sequence is the workload of the fault tests and a small shell.
	Sequence = "sequence"
	// Toolbox is a small shell and its applets, nothing else.
	Toolbox = "toolbox"
	// Postgres, Nginx, JVM, Python and Node are software as Debian ships it; the
	// last three run a small server of ours.
	Postgres = "postgres"
	Nginx    = "nginx"
	JVM      = "jvm"
	Python   = "python"
	Node     = "node"
	// GoServer is a server on Go's net/http, as it is.
	GoServer = "goserver"
	// Everything holds something of each kind that Linux gives a process.
	Everything = "everything"
	// Disks is a CSI driver, and the attacher that speaks to it for Kubernetes.
	Disks = "disks"
)

// attacher is the version of the CSI attacher's module.
const attacher = "v4.13.0"

// Software are the images that "make compat" moves, beside Redis. They are built when
// they are asked for.
var Software = []string{Postgres, Nginx, JVM, Python, Node, GoServer, Everything}

// Ref returns the reference under which the image is known on a node.
func Ref(name string) string { return Prefix + name + ":" + Tag }

// Program is a Go program that goes into an image.
type Program struct {
	// Package is the program's import path: relative to the module of this repository,
	// "./…", unless Module names another one.
	Package string
	// Module and Version are the module that brings the package, if it is not ours.
	Module, Version string
	// Path is where the binary goes in the image.
	Path string
}

// File is a file of this repository that goes into an image.
type File struct {
	// Source is its path relative to the module.
	Source string
	// Path is where it goes in the image.
	Path string
	Mode int64
}

// User is a line of /etc/passwd and the group of the same number and name.
type User struct {
	Name string
	ID   int
	Home string
}

// Dir is a directory that no package brings.
type Dir struct {
	Path string
	Mode int64
	// Owner is the number of the user and of the group that own it.
	Owner int
}

// Image describes a workload image.
type Image struct {
	Name string
	// Packages are Debian packages; what they depend on comes along.
	Packages []string
	// Omit are packages of that closure which only serve installation and
	// maintainer scripts. The build fails when one of them is in truth needed
	// by a program or library of the image.
	Omit []string
	// Busybox adds a link in /bin for each applet of the busybox package
	// that no other package provides.
	Busybox  bool
	Programs []Program
	// Files replace those of packages.
	Files []File
	// Leave are paths, or directories with a slash at their end, of packages that are
	// left out: plugins whose libraries are in Omit, and what only documents.
	Leave []string
	Users []User
	Dirs  []Dir

	// What follows is the image's configuration, with the meaning that the
	// OCI image specification gives it.
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
	Ports      []string
}

// installOnly are packages that Debian's dependencies drag in for maintainer
// scripts: nothing runs those here.
var installOnly = []string{
	"adduser", "base-passwd", "debconf", "init-system-helpers",
	"libaudit-common", "libaudit1", "libbsd0", "libbz2-1.0", "libcap-ng0",
	"libcrypt1", "libdb5.3t64", "libdebconfclient0", "libmd0",
	"libpam-modules", "libpam-modules-bin", "libpam0g",
	"libsemanage-common", "libsemanage2", "libsepol2", "login.defs", "mawk",
	"openssl-provider-legacy", "passwd",
}

const busybox = "busybox-static"

// noLibraries is what an image of static programs can do without.
var noLibraries = append([]string{"gcc-14-base", "libc6", "libgcc-s1"}, installOnly...)

// All lists every workload image.
func All() []Image {
	return []Image{
		{
			Name:       Toolbox,
			Packages:   []string{"base-files", busybox},
			Omit:       noLibraries,
			Busybox:    true,
			Users:      []User{{Name: "root", ID: 0, Home: "/root"}, {Name: "nobody", ID: 65534, Home: "/"}},
			Dirs:       []Dir{{Path: "/tmp", Mode: 0o1777}},
			Cmd:        []string{"sh"},
			Entrypoint: nil,
		},
		{
			Name:     Memhog,
			Packages: []string{"base-files", busybox},
			Omit:     noLibraries,
			Busybox:  true,
			Programs: []Program{
				{Package: "./test/workloads/memhog", Path: "/usr/local/bin/memhog"},
				{Package: "./test/workloads/chorus", Path: "/usr/local/bin/chorus"},
				{Package: "./test/workloads/talk", Path: "/usr/local/bin/talk"},
			},
			Users:      []User{{Name: "root", ID: 0, Home: "/root"}, {Name: "memhog", ID: 1000, Home: "/"}},
			Dirs:       []Dir{{Path: "/tmp", Mode: 0o1777}, {Path: "/data", Mode: 0o755, Owner: 1000}},
			Entrypoint: []string{"/usr/local/bin/memhog"},
			User:       "1000:1000",
			WorkingDir: "/data",
			Ports:      []string{"8080/tcp"},
		},
		{
			Name:       Sequence,
			Packages:   []string{"base-files", busybox},
			Omit:       noLibraries,
			Busybox:    true,
			Programs:   []Program{{Package: "./test/workloads/sequence", Path: "/usr/local/bin/sequence"}},
			Users:      []User{{Name: "root", ID: 0, Home: "/root"}, {Name: "sequence", ID: 1000, Home: "/"}},
			Dirs:       []Dir{{Path: "/tmp", Mode: 0o1777}},
			Entrypoint: []string{"/usr/local/bin/sequence"},
			User:       "1000:1000",
		},
		{
			Name:       Redis,
			Packages:   []string{"base-files", busybox, "redis-server", "redis-tools"},
			Omit:       installOnly,
			Busybox:    true,
			Users:      []User{{Name: "root", ID: 0, Home: "/root"}, {Name: "redis", ID: 999, Home: "/data"}},
			Dirs:       []Dir{{Path: "/tmp", Mode: 0o1777}, {Path: "/data", Mode: 0o755, Owner: 999}},
			Entrypoint: []string{"redis-server"},
			Cmd:        []string{"--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""},
			User:       "999:999",
			WorkingDir: "/data",
			Ports:      []string{"6379/tcp"},
		},
		{
			Name:     Disks,
			Packages: []string{"base-files", "e2fsprogs"},
			Omit:     installOnly,
			Programs: []Program{
				{Package: "./test/disks", Path: "/usr/local/bin/disks"},
				{
					Module: "github.com/kubernetes-csi/external-attacher/v4", Version: attacher,
					Package: "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher", Path: "/usr/local/bin/csi-attacher",
				},
			},
			Users: []User{{Name: "root", ID: 0, Home: "/root"}},
			Dirs:  []Dir{{Path: "/tmp", Mode: 0o1777}},
			Cmd:   []string{"/usr/local/bin/disks"},
		},
		postgres(), nginx(), jvm(), python(), node(), goServer(), everything(),
	}
}

// Podman are the packages that a node needs to run podman and does not have. What else
// they depend on is there, or is for verifying signatures and for networks of
// containers, of which none is asked.
var Podman = []string{
	"podman", "conmon", "netavark",
	"libassuan9", "libatomic1", "libglib2.0-0t64", "libgpg-error0", "libgpgme11t64", "libsubid5",
}

// Find returns the workload image of that name.
func Find(name string) (Image, bool) {
	for _, image := range All() {
		if image.Name == name {
			return image, true
		}
	}
	return Image{}, false
}
