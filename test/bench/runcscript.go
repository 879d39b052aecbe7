// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// scriptRounds is how many rounds the recipe makes, whatever the process does.
const scriptRounds = 3

// bundle is where the container's bundle is on both nodes.
const bundle = handDir + "/bundle"

// runcRecipe moves a container of runc by what is commonly written in a script.
type runcRecipe struct{ *bench }

func (m runcRecipe) measure(ctx context.Context, c cell, r *result) error {
	return m.byHand(ctx, c, r, func(ctx context.Context, h *hand) error { return h.runcRecipe(ctx, scriptRounds, false, r) })
}

// containerCRIU moves the same container for the sake of what CRIU says of it.
type containerCRIU struct{ *bench }

func (m containerCRIU) measure(ctx context.Context, c cell, r *result) error {
	return m.byHand(ctx, c, r, func(ctx context.Context, h *hand) error { return h.runcRecipe(ctx, m.roundsOf(c), true, r) })
}

func (h *hand) runcRecipe(ctx context.Context, rounds int, warm bool, r *result) error {
	if err := h.makeBundles(ctx); err != nil {
		return err
	}
	if _, err := h.source.Run(ctx, h.chain.runc("run --detach --bundle "+bundle)); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	was, err := h.ready(ctx)
	if err != nil {
		return err
	}
	return h.move(ctx, was, recipe{
		rounds: rounds, warm: warm,
		dump:    func(k int) string { return h.chain.runcCheckpoint(k, k < rounds) },
		restore: h.chain.runcRestore(rounds),
	}, r)
}

// makeBundles makes the same bundle on both nodes: what “runc spec” writes, with the
// test server in it.
func (h *hand) makeBundles(ctx context.Context) error {
	err := h.both(ctx, "rm -rf "+bundle+" && mkdir -p "+bundle+"/rootfs/proc "+bundle+"/rootfs/dev "+bundle+"/rootfs/sys && cp "+
		handDir+"/memhog "+bundle+"/rootfs/memhog && cd "+bundle+" && runc spec")
	if err != nil {
		return fmt.Errorf("make the bundle: %w", err)
	}
	example, err := h.source.Run(ctx, "cat "+bundle+"/config.json")
	if err != nil {
		return err
	}
	config, err := bundleConfig([]byte(example), h.cell)
	if err != nil {
		return fmt.Errorf("config.json: %w", err)
	}
	return h.both(ctx, "cat > "+bundle+"/config.json <<'END'\n"+string(config)+"\nEND")
}

// bundleConfig makes the configuration of runc's example. The container shares the
// node's network: where it listens is where we ask.
func bundleConfig(example []byte, c cell) ([]byte, error) {
	var spec specs.Spec
	if err := json.NewDecoder(bytes.NewReader(example)).Decode(&spec); err != nil {
		return nil, err
	}
	if spec.Process == nil || spec.Root == nil || spec.Linux == nil {
		return nil, fmt.Errorf("no configuration of a Linux container: %s", example)
	}
	spec.Process.Terminal = false
	spec.Process.Args = []string{"/memhog"}
	spec.Process.Env = append(spec.Process.Env, c.environment()...)
	// runc makes the mount points that are missing.
	spec.Root.Readonly = false
	spec.Linux.CgroupsPath = "/godwit-bench"
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	return json.MarshalIndent(spec, "", "\t")
}
