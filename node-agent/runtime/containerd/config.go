// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Errors of the handler's installation.
var (
	// ErrNoImports: containerd's main configuration reads no drop-ins. The
	// administrator has to add the line that the message names.
	ErrNoImports = errors.New("containerd's configuration has no imports")
	// ErrNoRunc: the node has no runtime entry of type io.containerd.runc.v2 to
	// be like. The node cannot be a target.
	ErrNoRunc = errors.New("containerd's configuration has no runc runtime")
)

const runcType = "io.containerd.runc.v2"

// criPlugins are the names of the CRI plugin's section that holds the runtimes,
// in schema version 3 and later and in version 2.
var criPlugins = []string{"io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"}

// config is the part of containerd's configuration that we look at.
type config struct {
	Version int                       `toml:"version"`
	Imports []string                  `toml:"imports"`
	Plugins map[string]map[string]any `toml:"plugins"`
}

func parseConfig(b []byte) (config, error) {
	var c config
	if err := toml.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("parse containerd's configuration: %w", err)
	}
	return c, nil
}

// table walks down nested tables.
func table(t map[string]any, keys ...string) map[string]any {
	for _, k := range keys {
		next, ok := t[k].(map[string]any)
		if !ok {
			return nil
		}
		t = next
	}
	return t
}

// runtimes are the runtime entries, with the plugin section they are in.
func (c config) runtimes() (plugin, defaultName string, entries map[string]any) {
	for _, plugin := range criPlugins {
		section := table(c.Plugins[plugin], "containerd")
		if entries := table(section, "runtimes"); entries != nil {
			name, _ := section["default_runtime_name"].(string)
			return plugin, name, entries
		}
	}
	return "", "", nil
}

// nriPlugins is the directory of the plugins that containerd starts itself, "" for
// a containerd that has no Node Resource Interface or does not use it.
func (c config) nriPlugins() string {
	section, ok := c.Plugins["io.containerd.nri.v1.nri"]
	if !ok {
		return ""
	}
	if disabled, _ := section["disable"].(bool); disabled {
		return ""
	}
	if dir, _ := section["plugin_path"].(string); dir != "" {
		return dir
	}
	return DefaultPlugins
}

// dropInDir is the directory in which the main configuration looks for a
// drop-in of this name. Relative patterns are relative to the configuration's directory.
func (c config) dropInDir(mainFile, name string) (string, error) {
	for _, pattern := range c.Imports {
		dir, base := path.Split(pattern)
		if !path.IsAbs(pattern) {
			dir = path.Join(path.Dir(mainFile), dir)
		}
		if ok, err := path.Match(base, name); err == nil && ok && !strings.ContainsAny(dir, "*?[") {
			return path.Clean(dir), nil
		}
	}
	return "", fmt.Errorf("%w: add the line  imports = ['/etc/containerd/conf.d/*.toml']  to the top of %s", ErrNoImports, mainFile)
}

// dropIn makes our configuration file: the node's own runc entry with another
// binary. effective is the configuration as containerd has put it together;
// its entry is copied whole (cgroup driver, base specification, snapshotter, …),
// for a pod must run under our handler as it runs under the node's.
func dropIn(version int, effective config, handler, binary string) ([]byte, error) {
	_, defaultName, entries := effective.runtimes()
	entry := runcEntry(entries, defaultName)
	if entry == nil {
		return nil, ErrNoRunc
	}
	plugin := criPlugins[0]
	if version < 3 {
		plugin = criPlugins[1]
	}
	ours := nonZero(entry)
	options, _ := ours["options"].(map[string]any)
	if options == nil {
		options = map[string]any{}
	}
	options["BinaryName"] = binary
	ours["options"] = options
	ours["runtime_type"] = runcType
	delete(ours, "runtime_path")
	ours["pod_annotations"] = withAnnotation(ours["pod_annotations"])
	out := map[string]any{
		"version": version,
		"plugins": map[string]any{
			plugin: map[string]any{
				"containerd": map[string]any{
					"runtimes": map[string]any{handler: ours},
				},
			},
		},
	}
	b, err := toml.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("write the drop-in: %w", err)
	}
	return append([]byte(dropInHeader), b...), nil
}

// runcEntry picks the node's own runc: the default runtime if it is one.
func runcEntry(entries map[string]any, defaultName string) map[string]any {
	for _, name := range []string{defaultName, "runc"} {
		entry := table(entries, name)
		if t, _ := entry["runtime_type"].(string); t == runcType {
			return entry
		}
	}
	return nil
}

// nonZero copies a table without the values that say nothing.
func nonZero(t map[string]any) map[string]any {
	out := maps.Clone(t)
	for k, v := range out {
		switch v := v.(type) {
		case map[string]any:
			out[k] = nonZero(v)
		case []any:
			if len(v) == 0 {
				delete(out, k)
			}
		case string:
			if v == "" {
				delete(out, k)
			}
		case bool:
			if !v {
				delete(out, k)
			}
		case int64:
			if v == 0 {
				delete(out, k)
			}
		}
	}
	return out
}

func withAnnotation(have any) []any {
	list, _ := have.([]any)
	for _, a := range list {
		if a == podAnnotations {
			return list
		}
	}
	return append(list, podAnnotations)
}
