// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

// Software that others wrote, and what we write for the runtimes of languages.

// StorePort is where each of the HTTP servers listens; see test/workloads/store.
const StorePort = "8080/tcp"

// owner of what the servers write, and their user.
const owner = 1000

func server(name string) []User {
	return []User{{Name: "root", ID: 0, Home: "/root"}, {Name: name, ID: owner, Home: "/data"}}
}

// writable are the directories for a server's files.
func writable() []Dir {
	return []Dir{{Path: "/tmp", Mode: 0o1777}, {Path: "/data", Mode: 0o755, Owner: owner}, {Path: "/data/kv", Mode: 0o755, Owner: owner}}
}

func postgres() Image {
	return Image{
		Name:     Postgres,
		Packages: []string{"base-files", busybox, "postgresql-17"},
		Omit: append([]string{
			// The compiler of queries, and Debian's scripts around the server.
			"libllvm19", "libz3-4", "perl", "perl-base", "perl-modules-5.40", "libperl5.40", "libgdbm6t64", "libgdbm-compat4t64",
			"libjson-perl", "libio-pty-perl", "libipc-run-perl", "libtext-charwidth-perl", "libtext-wrapi18n-perl",
			"postgresql-client-common", "postgresql-common", "postgresql-common-dev", "procps", "libproc2-0", "libncursesw6",
			"ssl-cert", "openssl", "ucf", "sensible-utils", "locales", "libc-l10n", "netbase", "sysvinit-utils", "libc-bin",
		}, without(installOnly, "libpam0g", "libaudit1", "libcap-ng0", "libcrypt1", "libdb5.3t64", "libbsd0", "libmd0")...),
		Busybox:    true,
		Users:      []User{{Name: "root", ID: 0, Home: "/root"}, {Name: "postgres", ID: 999, Home: "/data"}},
		Dirs:       []Dir{{Path: "/tmp", Mode: 0o1777}, {Path: "/data", Mode: 0o700, Owner: 999}},
		Files:      []File{{Source: "test/workloads/postgres/start.sh", Path: "/usr/local/bin/start", Mode: 0o755}},
		Leave:      []string{"/usr/lib/postgresql/17/lib/llvmjit.so", "/usr/lib/postgresql/17/lib/llvmjit_types.bc", "/usr/lib/postgresql/17/lib/bitcode/"},
		Entrypoint: []string{"/usr/local/bin/start"},
		User:       "999:999",
		WorkingDir: "/data",
		Ports:      []string{"5432/tcp"},
	}
}

func nginx() Image {
	return Image{
		Name:       Nginx,
		Packages:   []string{"base-files", busybox, "nginx"},
		Omit:       append([]string{"iproute2", "libcap2-bin", "libbpf1", "libelf1t64", "libmnl0", "libtirpc-common", "libtirpc3t64", "libxtables12"}, without(installOnly, "libcrypt1")...),
		Busybox:    true,
		Users:      server("www-data"),
		Dirs:       append(writable(), Dir{Path: "/var/log/nginx", Mode: 0o755, Owner: owner}, Dir{Path: "/var/lib/nginx", Mode: 0o755, Owner: owner}),
		Files:      []File{{Source: "test/workloads/nginx/nginx.conf", Path: "/etc/nginx/nginx.conf", Mode: 0o644}},
		Entrypoint: []string{"/usr/sbin/nginx", "-g", "daemon off;"},
		User:       "1000:1000",
		WorkingDir: "/data",
		Ports:      []string{StorePort},
	}
}

func jvm() Image {
	return Image{
		Name:     JVM,
		Packages: []string{"base-files", busybox, "openjdk-21-jre-headless"},
		Omit: append([]string{
			"ca-certificates", "ca-certificates-java", "java-common", "openssl", "util-linux", "libpam-runtime",
			"liblastlog2-2", "libmount1", "libsmartcols1", "libblkid1", "libuuid1", "libtinfo6", "libsystemd0",
		}, installOnly...),
		Busybox: true,
		Users:   server("java"),
		Dirs:    writable(),
		// What a server without a screen has no use for.
		Leave: []string{
			"/usr/lib/jvm/java-21-openjdk-amd64/lib/libfontmanager.so", "/usr/lib/jvm/java-21-openjdk-amd64/lib/libjsound.so",
		},
		Files:      []File{{Source: "test/workloads/store/Store.java", Path: "/srv/Store.java", Mode: 0o644}},
		Entrypoint: []string{"/usr/lib/jvm/java-21-openjdk-amd64/bin/java"},
		// A source file is compiled when it is started.
		Cmd:        []string{"-Xmx96m", "-Dsun.net.httpserver.idleInterval=3600", "/srv/Store.java"},
		User:       "1000:1000",
		WorkingDir: "/data",
		Ports:      []string{StorePort},
	}
}

func python() Image {
	return Image{
		Name:       Python,
		Packages:   []string{"base-files", busybox, "python3"},
		Omit:       append([]string{"dpkg", "tar", "media-types", "netbase", "tzdata", "libacl1", "libselinux1", "libpcre2-8-0"}, without(installOnly, "libcrypt1", "libdb5.3t64", "libbz2-1.0")...),
		Busybox:    true,
		Users:      server("python"),
		Dirs:       writable(),
		Files:      []File{{Source: "test/workloads/store/store.py", Path: "/srv/store.py", Mode: 0o644}},
		Entrypoint: []string{"/usr/bin/python3", "-u", "/srv/store.py"},
		User:       "1000:1000",
		WorkingDir: "/data",
		Ports:      []string{StorePort},
	}
}

func node() Image {
	return Image{
		Name:       Node,
		Packages:   []string{"base-files", busybox, "nodejs"},
		Omit:       append([]string{"node-corepack"}, installOnly...),
		Busybox:    true,
		Users:      server("node"),
		Dirs:       writable(),
		Files:      []File{{Source: "test/workloads/store/store.js", Path: "/srv/store.js", Mode: 0o644}},
		Entrypoint: []string{"/usr/bin/node", "/srv/store.js"},
		User:       "1000:1000",
		WorkingDir: "/data",
		Ports:      []string{StorePort},
	}
}

func goServer() Image {
	return Image{
		Name: GoServer, Packages: []string{"base-files", busybox}, Omit: noLibraries, Busybox: true,
		Programs:   []Program{{Package: "./test/workloads/goserver", Path: "/usr/local/bin/goserver"}},
		Users:      server("goserver"),
		Dirs:       writable(),
		Entrypoint: []string{"/usr/local/bin/goserver"},
		User:       "1000:1000",
		WorkingDir: "/data",
		Ports:      []string{StorePort},
	}
}

func everything() Image {
	return Image{
		Name: Everything, Packages: []string{"base-files", busybox}, Omit: noLibraries, Busybox: true,
		Programs:   []Program{{Package: "./test/workloads/everything", Path: "/usr/local/bin/everything"}},
		Users:      server("everything"),
		Dirs:       writable(),
		Entrypoint: []string{"/usr/local/bin/everything"},
		User:       "1000:1000",
		WorkingDir: "/data",
		Ports:      []string{StorePort},
	}
}

// without returns the list without some of its entries.
func without(list []string, but ...string) []string {
	var out []string
	for _, e := range list {
		needed := false
		for _, b := range but {
			needed = needed || b == e
		}
		if !needed {
			out = append(out, e)
		}
	}
	return out
}
