// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime/host"
)

const (
	// DefaultHandler is the name of the runtime handler.
	DefaultHandler = "godwit"
	// DefaultBinary is where the wrapper is installed on the node.
	DefaultBinary = "/opt/godwit/bin/godwit-runc"
	// DefaultGuardBinary is where the plugin that guards pods is installed; see
	// package nri.
	DefaultGuardBinary = "/opt/godwit/bin/godwit-guard"
	// DefaultPlugins is where containerd looks for plugins that it starts itself
	// if its configuration does not name another directory.
	DefaultPlugins = "/opt/nri/plugins"
	// DefaultConfig is containerd's main configuration file on the node.
	DefaultConfig = "/etc/containerd/config.toml"

	// DefaultDropIn is the name of our configuration file.
	DefaultDropIn = "godwit.toml"

	podAnnotations = "godwit.dev/*"
	dropInHeader   = "# Written by Godwit's node agent, which replaces and removes it as a whole.\n"
)

// HandlerOptions configure the runtime handler.
type HandlerOptions struct {
	// Name of the handler. Default DefaultHandler.
	Name string
	// Binary is where the wrapper is installed, a path of the node. Default DefaultBinary.
	Binary string
	// GuardBinary is where the guard is installed, a path of the node. Default
	// DefaultGuardBinary.
	GuardBinary string
	// Config is containerd's main configuration, a path of the node. Default DefaultConfig.
	Config string
	// DropIn is the name of our configuration file. Default DefaultDropIn.
	DropIn string
	// Unit is containerd's systemd unit. Default "containerd".
	Unit string
	// ServeTimeout bounds the wait for a restarted containerd. Default 60 s.
	ServeTimeout time.Duration
}

func (o HandlerOptions) withDefaults() HandlerOptions {
	if o.Name == "" {
		o.Name = DefaultHandler
	}
	if o.Binary == "" {
		o.Binary = DefaultBinary
	}
	if o.GuardBinary == "" {
		o.GuardBinary = DefaultGuardBinary
	}
	if o.Config == "" {
		o.Config = DefaultConfig
	}
	if o.DropIn == "" {
		o.DropIn = DefaultDropIn
	}
	if o.Unit == "" {
		o.Unit = "containerd"
	}
	if o.ServeTimeout == 0 {
		o.ServeTimeout = time.Minute
	}
	return o
}

// actionScript is where wire.ActionScript is installed: beside the wrapper.
func (o HandlerOptions) actionScript() string {
	return path.Join(path.Dir(o.Binary), wire.ActionScriptName)
}

// standIn is the wrapper under the name of CRIU, in wire.StandInDir.
func (o HandlerOptions) standIn() string {
	return path.Join(path.Dir(o.Binary), wire.StandInDir, "criu")
}

// guardLink is the guard among the plugins. The number orders them: a refusal comes
// before others have done work for nothing.
func (o HandlerOptions) guardLink(plugins string) string {
	return path.Join(plugins, "00-"+o.Name+"-guard")
}

// Binaries are the programs that a node gets.
type Binaries struct {
	// Wrapper is the OCI runtime of the handler, Guard the plugin of containerd.
	Wrapper, Guard []byte
}

// Installed tells what InstallHandler has done.
type Installed struct {
	// BinaryChanged (the wrapper) and ConfigChanged: there was another file, or
	// none. Only a changed configuration restarts containerd.
	BinaryChanged, ConfigChanged bool
	// DropIn is the configuration file, a path of the node.
	DropIn string
}

// InstallHandler installs the wrapper and makes it a runtime handler of
// containerd, and the guard among the plugins that containerd starts. Repeating is
// safe and touches nothing. A containerd that does not come to serve with the new
// configuration gets the old one back.
//
// ErrNoImports and ErrNoRunc say that the node's administrator has to act.
func (r *Runtime) InstallHandler(ctx context.Context, b Binaries, o HandlerOptions) (Installed, error) {
	o = o.withDefaults()
	var done Installed
	main, dir, err := r.mainConfig(ctx, o)
	if err != nil {
		return done, err
	}
	done.DropIn = path.Join(dir, o.DropIn)
	effective, err := r.effectiveConfig(ctx, o)
	if err != nil {
		return done, err
	}
	want, err := dropIn(main.Version, effective, o.Name, o.Binary)
	if err != nil {
		return done, err
	}
	// What CRIU calls, and the binary, come first: a handler whose binary is missing
	// fails pods.
	if _, err := r.replace(o.actionScript(), []byte(wire.ActionScript), 0o755); err != nil {
		return done, fmt.Errorf("install the action script: %w", err)
	}
	if done.BinaryChanged, err = r.replace(o.Binary, b.Wrapper, 0o755); err != nil {
		return done, fmt.Errorf("install the wrapper: %w", err)
	}
	if err := r.link(o.Binary, o.standIn()); err != nil {
		return done, fmt.Errorf("install the stand-in for CRIU: %w", err)
	}
	// Before containerd is restarted for the handler, so that it starts the guard.
	if err := r.installGuard(effective, b.Guard, o); err != nil {
		return done, fmt.Errorf("install the guard: %w", err)
	}
	before, err := r.o.Host.ReadFile(done.DropIn)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return done, err
	}
	if bytes.Equal(before, want) {
		return done, r.awaitServing(ctx, o)
	}
	if _, err := r.replace(done.DropIn, want, 0o644); err != nil {
		return done, fmt.Errorf("write the drop-in: %w", err)
	}
	done.ConfigChanged = true
	if err := r.activate(ctx, o); err != nil {
		return done, errors.Join(err, r.restore(ctx, o, done.DropIn, before))
	}
	return done, nil
}

// installGuard makes the guard a plugin that containerd starts. What containerd
// finds among its plugins and cannot take for one keeps it from starting at all, so
// nothing is written there but a link, which is there whole or not at all.
func (r *Runtime) installGuard(effective config, guard []byte, o HandlerOptions) error {
	plugins := effective.nriPlugins()
	if plugins == "" {
		return nil // containerd has no NRI, or does not use it
	}
	if _, err := r.replace(o.GuardBinary, guard, 0o755); err != nil {
		return err
	}
	return r.link(o.GuardBinary, o.guardLink(plugins))
}

// link makes a symbolic link on the node, and the directory it is in.
func (r *Runtime) link(target, name string) error {
	dir, err := r.o.Host.MkdirAll(path.Dir(name), 0o755)
	if err != nil {
		return err
	}
	dir.Close()
	return r.o.Host.Symlink(target, name)
}

// removeGuard takes the guard away; a containerd that runs keeps it until it ends.
func (r *Runtime) removeGuard(ctx context.Context, o HandlerOptions) error {
	effective, err := r.effectiveConfig(ctx, o)
	if err != nil {
		return err
	}
	if plugins := effective.nriPlugins(); plugins != "" {
		if err := r.o.Host.Remove(o.guardLink(plugins)); err != nil {
			return err
		}
	}
	return r.o.Host.Remove(o.GuardBinary)
}

// activate checks the configuration before containerd is restarted with it.
func (r *Runtime) activate(ctx context.Context, o HandlerOptions) error {
	effective, err := r.effectiveConfig(ctx, o)
	if err != nil {
		return err
	}
	_, _, entries := effective.runtimes()
	options := table(entries, o.Name, "options")
	if name, _ := options["BinaryName"].(string); name != o.Binary {
		return fmt.Errorf("containerd does not take up the drop-in: handler %s has binary %q", o.Name, name)
	}
	return r.restart(ctx, o)
}

// restore puts the former drop-in back; before is nil when there was none.
func (r *Runtime) restore(ctx context.Context, o HandlerOptions, file string, before []byte) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	if before == nil {
		err = r.o.Host.Remove(file)
	} else {
		_, err = r.replace(file, before, 0o644)
	}
	if err == nil {
		err = r.restart(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("put the former configuration back: %w", err)
	}
	return nil
}

// Uninstalled tells what UninstallHandler has done.
type Uninstalled struct {
	// Removed: the handler and the wrapper are gone (or were not there).
	Removed bool
	// InUseBy are the sandboxes that run with the handler. While there is one,
	// both files stay: containerd looks the handler up by name for every exec,
	// statistic and update of these pods, and calls the wrapper for exec, kill
	// and delete.
	InUseBy []string
}

// UninstallHandler removes the handler, the wrapper and the guard, unless a pod uses them.
// Repeating is safe.
func (r *Runtime) UninstallHandler(ctx context.Context, o HandlerOptions) (Uninstalled, error) {
	o = o.withDefaults()
	var done Uninstalled
	var err error
	if done.InUseBy, err = r.sandboxesWith(ctx, o.Name); err != nil || len(done.InUseBy) > 0 {
		return done, err
	}
	if err := r.removeGuard(ctx, o); err != nil {
		return done, fmt.Errorf("remove the guard: %w", err)
	}
	_, dir, err := r.mainConfig(ctx, o)
	switch {
	case errors.Is(err, ErrNoImports):
		// Nothing of ours can be in force.
	case err != nil:
		return done, err
	default:
		file := path.Join(dir, o.DropIn)
		if _, err := r.o.Host.ReadFile(file); err == nil {
			if err := r.o.Host.Remove(file); err != nil {
				return done, fmt.Errorf("remove the drop-in: %w", err)
			}
			if err := r.restart(ctx, o); err != nil {
				return done, err
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return done, err
		}
	}
	for _, name := range []string{o.standIn(), path.Dir(o.standIn()), o.Binary, o.actionScript()} {
		if err := r.o.Host.Remove(name); err != nil {
			return done, fmt.Errorf("remove the wrapper: %w", err)
		}
	}
	done.Removed = true
	return done, nil
}

// sandboxesWith are the ids of the pod sandboxes of a runtime handler.
func (r *Runtime) sandboxesWith(ctx context.Context, handler string) ([]string, error) {
	records, err := r.client.ContainerService().List(r.context(ctx), fmt.Sprintf("labels.%q==%s", labelKind, kindSandbox))
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes: %w", err)
	}
	var ids []string
	for _, rec := range records {
		name, err := handlerOf(rec)
		if err != nil {
			return nil, err
		}
		if name == handler {
			ids = append(ids, rec.ID)
		}
	}
	return ids, nil
}

// mainConfig reads containerd's main configuration file and finds the drop-in
// directory. Without the file containerd has built-in defaults, which name a
// drop-in directory in recent versions.
func (r *Runtime) mainConfig(ctx context.Context, o HandlerOptions) (config, string, error) {
	b, err := r.o.Host.ReadFile(o.Config)
	var c config
	switch {
	case err == nil:
		c, err = parseConfig(b)
	case errors.Is(err, fs.ErrNotExist):
		c, err = r.effectiveConfig(ctx, o)
	}
	if err != nil {
		return c, "", err
	}
	dir, err := c.dropInDir(o.Config, o.DropIn)
	return c, dir, err
}

// effectiveConfig is the configuration as containerd puts it together.
func (r *Runtime) effectiveConfig(ctx context.Context, o HandlerOptions) (config, error) {
	b, err := r.o.Host.Run(ctx, host.Command{Args: []string{"containerd", "--config", o.Config, "config", "dump"}})
	if err != nil {
		return config{}, err
	}
	return parseConfig(b)
}

// replace writes a file of the node if its content is another.
func (r *Runtime) replace(name string, data []byte, perm fs.FileMode) (changed bool, err error) {
	have, err := r.o.Host.ReadFile(name)
	if err == nil && bytes.Equal(have, data) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	dir, err := r.o.Host.MkdirAll(path.Dir(name), 0o755)
	if err != nil {
		return false, err
	}
	dir.Close()
	return true, r.o.Host.WriteFile(name, data, perm)
}

// restart restarts containerd and waits until it serves. Containers outlive it:
// they are children of their shims.
func (r *Runtime) restart(ctx context.Context, o HandlerOptions) error {
	if _, err := r.o.Host.Run(ctx, host.Command{Args: []string{"systemctl", "restart", o.Unit}}); err != nil {
		return fmt.Errorf("restart containerd: %w", err)
	}
	return r.awaitServing(ctx, o)
}

// awaitServing waits until containerd answers and its CRI plugin works. A
// containerd with an unusable CRI configuration runs, but serves no pods.
func (r *Runtime) awaitServing(ctx context.Context, o HandlerOptions) error {
	ctx, cancel := context.WithTimeout(ctx, o.ServeTimeout)
	defer cancel()
	// WaitForReady: gRPC itself connects again with backoff.
	serving, err := r.client.IsServing(ctx)
	if err != nil || !serving {
		return fmt.Errorf("wait for containerd (serving: %t): %w", serving, err)
	}
	resp, err := r.client.IntrospectionService().Plugins(r.context(ctx))
	if err != nil {
		return fmt.Errorf("ask containerd for its plugins: %w", err)
	}
	found := false
	for _, p := range resp.GetPlugins() {
		if !strings.HasPrefix(p.GetType(), "io.containerd.cri.") && p.GetID() != "cri" {
			continue
		}
		found = true
		if e := p.GetInitErr(); e != nil {
			return fmt.Errorf("containerd's CRI plugin %s.%s failed: %s", p.GetType(), p.GetID(), e.GetMessage())
		}
	}
	if !found {
		return errors.New("containerd has no CRI plugin")
	}
	return nil
}
