// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package wire holds the messages between the OCI runtime wrapper and the node
// agent: JSON, one message a line, over a unix socket that only root may open.
//
// A conversation is: the wrapper sends one Request; the agent answers with one
// or more Replies. Pass and Fail end the conversation. Park and Prepare mean: wait,
// another Reply follows; a Prepare is answered with a Result when it has been done.
// After Restore the wrapper restores, sends one Result and ends.
//
// Either side may lose the other. A parked wrapper whose agent goes away asks
// again with the same Request, marked as Parked; one that has restored for an
// agent that went away brings its Result in a Request of its own. What neither
// can tell the other is on the node: see Hold.
package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// Version of the protocol. Both sides come out of the same image; a
	// mismatch means a half-done upgrade and is an error.
	Version = 4
	// MaxMessage is the largest message in bytes.
	MaxMessage = 64 << 10
	// SocketName is the socket's name in the agent's run directory.
	SocketName = "agent.sock"
	// DefaultRunDir is the agent's directory on the node.
	DefaultRunDir = "/run/godwit"
)

// Errors of Read.
var (
	// ErrTooLarge: the peer sent a line longer than MaxMessage. Hang up.
	ErrTooLarge = errors.New("message too large")
	// ErrVersion: the peer speaks another version. Hang up.
	ErrVersion = errors.New("protocol version mismatch")
)

// Request tells the agent that the runtime was asked to create a container.
type Request struct {
	Version int `json:"version"`
	// PodUID, ContainerName, SandboxID are what containerd wrote into the
	// container's configuration; ContainerID and Bundle are the create's arguments.
	PodUID        string `json:"podUID"`
	ContainerName string `json:"containerName"`
	SandboxID     string `json:"sandboxID"`
	ContainerID   string `json:"containerID"`
	Bundle        string `json:"bundle"`
	// Waited is how long the create has waited so far: its time is limited as a
	// whole, whichever agents it waited for.
	Waited time.Duration `json:"waited,omitempty"`
	// Parked: an agent that is gone has parked this create. It is not created
	// from its image, whatever this agent knows of it.
	Parked bool `json:"parked,omitempty"`
	// Result of the restore that an agent that is gone has ordered. Nothing is
	// asked then; the agent answers Noted.
	Result *Result `json:"result,omitempty"`
}

// Verdict is the agent's answer.
type Verdict string

const (
	// Pass: not a container to be restored (or no longer); create it as usual.
	Pass Verdict = "pass"
	// Park: a container to be restored; wait for the next Reply.
	Park Verdict = "park"
	// Prepare: it will probably have to be restored from the images named in the
	// Reply, which are not complete: do what can be done before, and make no process
	// from them. Wait for the next Reply.
	Prepare Verdict = "prepare"
	// Restore: restore it from the images named in the Reply.
	Restore Verdict = "restore"
	// Fail: it must neither be restored nor started.
	Fail Verdict = "fail"
	// Noted: the Result has arrived.
	Noted Verdict = "noted"
)

// Reply is the agent's answer to a Request.
type Reply struct {
	Version int     `json:"version"`
	Verdict Verdict `json:"verdict"`
	// Reason and Message explain a Fail.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Images describes what to restore, with verdicts Prepare and Restore.
	Images *Images `json:"images,omitempty"`
}

// Images says how to restore.
type Images struct {
	// Dir holds the final dump, a path on the node.
	Dir string `json:"dir"`
	// WorkDir is a directory on the node for logs and statistics.
	WorkDir string `json:"workDir"`
	// CRIUConfig is a CRIU configuration file for this restore, "" for none.
	CRIUConfig string `json:"criuConfig,omitempty"`
	// Timeout bounds the restore; the wrapper ends it and removes what it left.
	Timeout time.Duration `json:"timeout"`
	// Frozen: the container is one of several. What is restored must not run yet, it
	// is left frozen: the agent lets all of them go together (see LetGo).
	Frozen bool `json:"frozen,omitempty"`
}

// Result tells the agent how the restore went, or that a preparation has ended.
type Result struct {
	Version int `json:"version"`
	// Prepared: nothing was restored; what Prepare has begun waits for the order now,
	// or has failed with Error, and the restore will begin with the order.
	Prepared bool `json:"prepared,omitempty"`
	// PID of the restored init process; 0 when it failed.
	PID int `json:"pid,omitempty"`
	// Start of the restore and Duration until the processes ran.
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration"`
	// Error is empty when it worked.
	Error string `json:"error,omitempty"`
}

// Write sends one message.
func Write(w io.Writer, msg any) error {
	b, err := json.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encode %T: %w", msg, err)
	}
	if len(b) >= MaxMessage {
		return fmt.Errorf("encode %T: %w", msg, ErrTooLarge)
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("send %T: %w", msg, err)
	}
	return nil
}

// Reader reads messages from a peer that is not trusted to be sane.
type Reader struct {
	r *bufio.Reader
}

// NewReader returns a Reader.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, MaxMessage)}
}

type versioned interface{ version() int }

func (m *Request) version() int { return m.Version }
func (m *Reply) version() int   { return m.Version }
func (m *Result) version() int  { return m.Version }

// Read receives one message into msg, a *Request, *Reply or *Result. io.EOF
// when the peer hung up between messages.
func (r *Reader) Read(msg versioned) error {
	line, err := r.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return ErrTooLarge
	case errors.Is(err, io.EOF) && len(line) > 0:
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	}
	if err := json.Unmarshal(line, msg); err != nil {
		return fmt.Errorf("decode %T: %w", msg, err)
	}
	if v := msg.version(); v != Version {
		return fmt.Errorf("%w: peer speaks %d, this side %d", ErrVersion, v, Version)
	}
	return nil
}
