// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	clusterclient "godwit.dev/godwit/test/cluster/client"
)

const (
	// podmanDir has the files of podman's packages on the nodes, and its configuration.
	podmanDir = handDir + "/podman"
	// podmanProgram runs podman with all of that.
	podmanProgram = podmanDir + "/podman"
	// podmanStorage has images and containers, podmanRun what ends with a boot.
	podmanStorage = handDir + "/podman-storage"
	podmanRun     = "/run/godwit-bench/podman"
	podmanImage   = "localhost/godwit-bench:memhog"
	// podmanFiles is where CRIU's files of the only container are.
	podmanFiles = podmanStorage + "/overlay-containers/*/userdata"
)

// podmanConfig are podman's files of configuration, and a program that it is run by.
// Its documentation has pre-checkpoints with runc only, which is the nodes' here.
const podmanConfig = `mkdir -p ` + podmanDir + ` && cd ` + podmanDir + ` || exit
cat > containers.conf <<'END'
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["` + podmanDir + `/usr/bin/conmon"]
events_logger = "none"
helper_binaries_dir = ["` + podmanDir + `/usr/lib/podman"]
runtime = "runc"
tmp_dir = "` + podmanRun + `/tmp"
[engine.runtimes]
runc = ["/usr/local/bin/runc"]
[network]
network_config_dir = "` + podmanRun + `/networks"
END
cat > storage.conf <<'END'
[storage]
driver = "overlay"
graphroot = "` + podmanStorage + `"
runroot = "` + podmanRun + `/storage"
END
echo 'unqualified-search-registries = []' > registries.conf
echo '{"default": [{"type": "insecureAcceptAnything"}]}' > policy.json
cat > ` + podmanProgram + ` <<'END'
#!/bin/sh
export CONTAINERS_CONF=` + podmanDir + `/containers.conf CONTAINERS_STORAGE_CONF=` + podmanDir + `/storage.conf
export CONTAINERS_REGISTRIES_CONF=` + podmanDir + `/registries.conf LD_LIBRARY_PATH=` + podmanDir + `/usr/lib/x86_64-linux-gnu
exec ` + podmanDir + `/usr/bin/podman "$@"
END
chmod 755 ` + podmanProgram

// cleanPodman removes podman's container, if there is one.
const cleanPodman = `! ls -d ` + podmanStorage + `/overlay-containers/*/ >/dev/null 2>&1 || ` + podmanProgram + ` rm --all --force --time 0 >/dev/null`

// podmanMigrate moves a container of podman's as its documentation says.
type podmanMigrate struct{ *bench }

func (m podmanMigrate) measure(ctx context.Context, c cell, r *result) error {
	if err := m.equipPodman(ctx); err != nil {
		return fmt.Errorf("equip the nodes with podman: %w", err)
	}
	return m.byHand(ctx, c, r, func(ctx context.Context, h *hand) error { return h.podman(ctx, r) })
}

// equipPodman puts podman and an image of the test server on the nodes, once. A
// container is restored on the image that it was made of, so that the other node gets
// the first one's.
func (b *bench) equipPodman(ctx context.Context) error {
	if b.hasPodman {
		return nil
	}
	g, unpacking := errgroup.WithContext(ctx)
	for _, n := range b.Nodes.Nodes() {
		g.Go(func() error { return b.unpackPodman(unpacking, n) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	first, other := b.ends(firstNode)
	archive := handImages + "/podman-image.tar"
	if _, err := first.Output(ctx, podmanImport(archive)); err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	if _, err := other.Output(ctx, podmanLoad(archive)); err != nil {
		return fmt.Errorf("load the image: %w", err)
	}
	b.hasPodman = true
	return nil
}

func (b *bench) unpackPodman(ctx context.Context, n *clusterclient.Node) error {
	const archive = podmanDir + ".tar"
	if err := n.CopyTo(ctx, filepath.Join(b.NodeTests, "podman.tar"), archive); err != nil {
		return fmt.Errorf("copy the packages to %s: %w", n.Name, err)
	}
	_, err := n.Output(ctx, podmanConfig+" && tar -xf "+archive+" && rm "+archive+" && "+podmanProgram+" version")
	return err
}

// podmanPolicy lets podman take images that nobody has signed.
const podmanPolicy = " --signature-policy " + podmanDir + "/policy.json "

// podmanImport makes the image, and an archive of it.
func podmanImport(archive string) string {
	return "tar -C " + handDir + " -c memhog | " + podmanProgram + " import" + podmanPolicy + "- " + podmanImage +
		" && rm -f " + archive + " && " + podmanProgram + " save" + podmanPolicy + "--format oci-archive --output " + archive + " " + podmanImage
}

// podmanLoad takes the image from the archive.
func podmanLoad(archive string) string {
	return podmanProgram + " load" + podmanPolicy + "--input " + archive
}

// podman makes one round, which is as many as it knows, and the last dump.
func (h *hand) podman(ctx context.Context, r *result) error {
	if _, err := h.source.Run(ctx, "mkdir -p "+h.chain.images+" && "+podmanStart(h.cell)); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	was, err := h.ready(ctx)
	if err != nil {
		return errors.Join(err, h.podmanLog(ctx))
	}
	begun := time.Now()
	var took []time.Duration
	for k := range 2 {
		d, err := timed(ctx, h.source, h.chain.podmanCheckpoint(k))
		if err != nil {
			return fmt.Errorf("checkpoint %d: %w", k, err)
		}
		took = append(took, d)
		if k > 0 {
			break
		}
		// The next one overwrites them. Those of the last wait until the process runs
		// again, for which it stands still.
		if _, err := h.source.Run(ctx, h.chain.podmanStats("stats-dump", k)); err != nil {
			return err
		}
	}
	restored, err := timed(ctx, h.target, h.chain.podmanRestore())
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.TotalSeconds = time.Since(begun).Seconds()
	if err := h.arrived(ctx, was, r); err != nil {
		return err
	}
	if _, err := h.source.Run(ctx, h.chain.podmanStats("stats-dump", 1)); err != nil {
		return err
	}
	if _, err := h.target.Run(ctx, h.chain.podmanStats("stats-restore", 1)); err != nil {
		return err
	}
	return h.readCRIU(ctx, took, restored, r)
}

// podmanLog is what the container on the first node has to say, as an error.
func (h *hand) podmanLog(ctx context.Context) error {
	out, err := h.source.Run(ctx, podmanProgram+" logs --tail 8 bench")
	return errors.Join(errors.New(out), err)
}

// podmanStart runs the container “bench” in the node's network. As in the bundle of
// “runc spec” no system call is filtered, which CRIU would have to see to.
func podmanStart(c cell) string {
	return podmanProgram + " run --detach --name bench --pull never --network host --security-opt seccomp=unconfined --env " +
		strings.Join(c.environment(), " --env ") + " " + podmanImage + " /memhog"
}

// podmanCheckpoint is dump k: the round, or the last, which is on top of it.
func (c chain) podmanCheckpoint(k int) string {
	which := "--pre-checkpoint"
	if k > 0 {
		which = "--with-previous --keep"
	}
	return explain(podmanProgram+" container checkpoint "+which+" --export "+c.archive(k)+" --compress none --ignore-rootfs --ignore-volumes bench",
		podmanFiles+"/dump.log")
}

// podmanRestore restores from the round and the last dump. What it has unpacked is
// kept: removing that is no part of a move.
func (c chain) podmanRestore() string {
	return explain(podmanProgram+" container restore --import-previous "+c.archive(0)+" --import "+c.archive(1)+" --keep --ignore-rootfs --ignore-volumes",
		podmanFiles+"/restore.log")
}

// archive that podman exports dump k to.
func (c chain) archive(k int) string {
	images, _, _ := c.at(k)
	return images + ".tar"
}

// podmanStats puts CRIU's statistics of dump k where those of the others are.
func (c chain) podmanStats(file string, k int) string {
	_, work, _ := c.at(k)
	return "mkdir -p " + work + " && cp " + podmanFiles + "/" + file + " " + work
}
