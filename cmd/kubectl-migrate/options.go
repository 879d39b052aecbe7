// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// errNotDone: the migration ended otherwise than hoped for; the output says how.
var errNotDone = errors.New("not migrated")

// options are what all verbs share.
type options struct {
	genericiooptions.IOStreams
	flags *genericclioptions.ConfigFlags
	// connect returns a client and the namespace to work in.
	connect func() (client.WithWatch, string, error)
	// width of the terminal that Out is, 0 when it is none.
	width int
}

func newOptions(streams genericiooptions.IOStreams) *options {
	o := &options{IOStreams: streams, flags: genericclioptions.NewConfigFlags(true).WithWarningPrinter(streams), width: terminalWidth(streams.Out)}
	o.connect = o.fromKubeconfig
	return o
}

// terminalWidth is 0 unless w is a terminal that understands cursor movements.
func terminalWidth(w any) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// newScheme knows the kinds that the plugin handles.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(s), corev1.AddToScheme(s)); err != nil {
		return nil, fmt.Errorf("build scheme: %w", err)
	}
	return s, nil
}

func (o *options) fromKubeconfig() (client.WithWatch, string, error) {
	config, err := o.flags.ToRESTConfig()
	if err != nil {
		return nil, "", fmt.Errorf("read kubeconfig: %w", err)
	}
	ns, _, err := o.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("read kubeconfig: %w", err)
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, "", err
	}
	// The few kinds are known: asking the server for all of its kinds first
	// would take longer than what follows.
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(v1alpha1.GroupVersion.WithKind("Migration"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, "", fmt.Errorf("connect: %w", err)
	}
	return c, ns, nil
}

// newCommand wires the verbs.
func newCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubectl-migrate",
		Short: "Move running pods to other nodes without restarting their processes",
		Annotations: map[string]string{
			cobra.CommandDisplayNameAnnotation: "kubectl migrate",
		},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetIn(o.In)
	cmd.SetOut(o.Out)
	cmd.SetErr(o.ErrOut)
	o.flags.AddFlags(cmd.PersistentFlags())
	cmd.AddCommand(newStart(o), newWatch(o), newCancel(o), newResolve(o), newCheck(o), newReport(o), newNodes(o))
	return cmd
}

// nameOf accepts "name", "mig/name", "migration/name" and what kubectl prints,
// "migration.godwit.dev/name".
func nameOf(arg string) (string, error) {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok {
		return arg, nil
	}
	switch strings.ToLower(kind) {
	case "mig", "migration", "migrations", "migration.godwit.dev", "migrations.godwit.dev":
		if name != "" && !strings.Contains(name, "/") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%q is not the name of a migration", arg)
}

// podOf accepts "name" and "pod/name".
func podOf(arg string) (string, error) {
	name := arg
	if kind, rest, ok := strings.Cut(arg, "/"); ok {
		if k := strings.ToLower(kind); k != "pod" && k != "pods" && k != "po" {
			return "", fmt.Errorf("%q is not a pod: only pods can be moved", arg)
		}
		name = rest
	}
	if name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is not the name of a pod", arg)
	}
	return name, nil
}
