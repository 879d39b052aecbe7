// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Collect writes everything that may explain a failure into a directory: the
// objects of the namespace, events, logs of manager and agents, CRIU's logs, and
// the logs of the nodes and of the control plane. It goes on after errors and
// returns all of them.
func (h *Harness) Collect(ctx context.Context, namespace, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	write := func(file string, args ...string) {
		out, err := h.KubectlRun(ctx, args...)
		if err != nil {
			out += "\n" + err.Error() + "\n"
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, file), []byte(out), 0o644))
	}
	write("objects.txt", "get", "migrations,pods,services,endpointslices,nodes,persistentvolumes,persistentvolumeclaims,volumeattachments,csinodes", "-A", "-o", "wide")
	write("migrations.yaml", "-n", namespace, "get", "migrations", "-o", "yaml")
	write("pods.yaml", "-n", namespace, "get", "pods", "-o", "yaml")
	write("describe.txt", "-n", namespace, "describe", "--show-events", "migrations,pods")
	write("events.txt", "-n", namespace, "get", "events.events.k8s.io", "--sort-by=.metadata.creationTimestamp")
	for _, component := range []string{"manager", "agent"} {
		selector := []string{"-n", Namespace, "logs", "-l", "app.kubernetes.io/component=" + component,
			"--all-containers", "--prefix", "--tail=-1"}
		write(component+".log", selector...)
		write(component+"-previous.log", append(selector, "--previous", "--ignore-errors")...)
	}
	write("disks.txt", "-n", DiskNamespace, "describe", "pods")
	write("disks.log", "-n", DiskNamespace, "logs", "-l", "app=disks", "--all-containers", "--prefix", "--tail=-1")
	for _, n := range h.Nodes.Nodes() {
		var out, stderr bytes.Buffer
		code, err := n.Stream(ctx, nodeScript, nil, &out, &stderr)
		if err != nil || code != 0 {
			fmt.Fprintf(&out, "\nexit code %d, %v: %s\n", code, err, stderr.String())
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, "node-"+n.Name+".txt"), out.Bytes(), 0o644))
	}
	if problems := h.Nodes.CollectLogs(ctx, filepath.Join(dir, "cluster")); problems != nil {
		errs = append(errs, problems)
	}
	return errors.Join(errs...)
}

// nodeScript shows what Godwit has on a node. CRIU's logs are small enough to
// show their ends.
const nodeScript = `
echo "== containers"; ctr -n k8s.io tasks ls
echo "== /run/godwit"; find /run/godwit -ls
echo "== ` + ImagesDir + `"; find ` + ImagesDir + ` -ls
find /run/godwit /run/godwit-test ` + ImagesDir + ` -name '*.log' | while read -r f; do echo "== $f"; tail -n 200 "$f"; done
echo "== processes"; ps -eo pid,ppid,stat,lstart,args
`
