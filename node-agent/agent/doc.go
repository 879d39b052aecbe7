// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package agent is the node agent's engine. For every Migration that concerns
// its node it runs a session per side, a loop of observe, decide and act: what
// to do comes from internal/migration each time anew, from what the API and the
// node say, so an agent that restarts in any phase goes on from there.
//
//   - source*.go  the session of the node the pod leaves,
//   - target*.go  the session of the node it goes to,
//   - parking.go  the socket the runtime wrapper asks,
//   - register.go the writes to the handover register.
package agent
