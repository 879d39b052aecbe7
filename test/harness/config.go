// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/test/images/catalog"
)

// Config says where things are. ConfigFromEnvironment fills it.
type Config struct {
	// Kubeconfig is the path of an administrator's kubeconfig.
	Kubeconfig string
	// Kubectl and Helm are paths of the programs.
	Kubectl, Helm string
	// Chart is the directory of the chart.
	Chart string
	// Images of ours and of the workloads.
	Godwit, Redis, Memhog, Toolbox, Disks string
	// NodeTests is the directory of the test binaries that run on a node.
	NodeTests string
	// Artifacts is the directory for the logs of failures.
	Artifacts string
	// Keep says that the cluster stays up afterwards.
	Keep bool
	// BeginUntil is when the last scenario may begin; zero sets no limit.
	BeginUntil time.Time
}

// TooLate says that no scenario may begin any more. A suite counts those that it has not
// begun as skipped.
func (c Config) TooLate() bool { return !c.BeginUntil.IsZero() && time.Now().After(c.BeginUntil) }

// ConfigFromEnvironment reads the variables that hack/with-cluster.sh sets, and
// looks for programs in PATH where they are not set.
func ConfigFromEnvironment() (Config, error) {
	c := Config{
		Kubeconfig: os.Getenv("KUBECONFIG"),
		Chart:      cmp.Or(os.Getenv("CHART"), "charts/godwit"),
		Godwit:     cmp.Or(os.Getenv("GODWIT_IMAGE"), catalog.Ref(catalog.Godwit)),
		Redis:      cmp.Or(os.Getenv("REDIS_IMAGE"), catalog.Ref(catalog.Redis)),
		Memhog:     cmp.Or(os.Getenv("MEMHOG_IMAGE"), catalog.Ref(catalog.Memhog)),
		Toolbox:    cmp.Or(os.Getenv("TOOLBOX_IMAGE"), catalog.Ref(catalog.Toolbox)),
		Disks:      cmp.Or(os.Getenv("DISKS_IMAGE"), catalog.Ref(catalog.Disks)),
		NodeTests:  cmp.Or(os.Getenv("NODE_TESTS"), "bin/node"),
		Artifacts:  cmp.Or(os.Getenv("ARTIFACTS"), "artifacts"),
		Keep:       os.Getenv("KEEP") == "1",
	}
	if c.Kubeconfig == "" {
		return c, fmt.Errorf("KUBECONFIG is not set: run inside the cluster, with make or “cluster exec”")
	}
	if v := os.Getenv("BEGIN_UNTIL"); v != "" {
		seconds, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return c, fmt.Errorf("BEGIN_UNTIL is not a time in Unix seconds: %w", err)
		}
		c.BeginUntil = time.Unix(seconds, 0)
	}
	var err error
	if c.Kubectl, err = program("KUBECTL", "kubectl"); err != nil {
		return c, err
	}
	if c.Helm, err = program("HELM", "helm"); err != nil {
		return c, err
	}
	for _, path := range []*string{&c.Chart, &c.Artifacts, &c.NodeTests} {
		if *path, err = filepath.Abs(*path); err != nil {
			return c, err
		}
	}
	if _, err := os.Stat(filepath.Join(c.Chart, "Chart.yaml")); err != nil {
		return c, fmt.Errorf("no chart, set CHART: %w", err)
	}
	return c, nil
}

func program(variable, name string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("set %s: %w", variable, err)
	}
	return path, nil
}

// splitImage takes a reference apart into repository and tag.
func splitImage(ref string) (repository, tag string) {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:]
	}
	return ref, "latest"
}
