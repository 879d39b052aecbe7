// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command godwit-runc is an OCI runtime that is runc, except that a container
// which a migration brings to this node is restored instead of created.
//
// containerd's runtime handler "godwit" names it as the runtime's binary. Every
// verb is handed to the real runc by exec, untouched, but these:
//
//   - create asks the node agent. Its answer is to go on as usual, to fail, to
//     wait (park), or to restore from verified images, which is then done with
//     "runc restore". The wrapper decides nothing from annotations except to
//     refuse: without the agent a container that belongs to a migration is not
//     created.
//   - start of a restored container does nothing, for it runs already.
//   - delete first clears away what a restore that was killed has left.
//   - without a verb, called by CRIU, it is the action script of its own restores:
//     see script.
//   - called “criu”, by the runc of a restore that is prepared, it stands in for CRIU
//     until the order comes: see standIn.
//   - gate is no verb of runc: it is the process of the init container that
//     holds a target pod back. It waits for a signal.
//
// Standard output and error are the container's own log. Errors go to the file
// that containerd names with --log.
//
// Environment: GODWIT_RUNC is the path of the real runc (else it is looked for
// in PATH), GODWIT_RUN_DIR the agent's directory on the node.
//
// A container's CPU limit applies to its restore too: lifting it would mean to
// lift that of the pod's cgroup as well, which is kubelet's.
package main
