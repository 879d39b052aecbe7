// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command images builds the container images that the tests run, without a
// registry and without a container engine, into a cache outside the checkout.
//
//	go run ./test/images build            # every image but failpoints and compat's
//	go run ./test/images build redis      # one
//	go run ./test/images list             # names, references and archives
//	go run ./test/images podman           # the files of podman's packages
//
// An archive is kept under a name that contains a hash of everything it was
// made from, so a second build of the same is a look-up. The file NAME.tar
// beside it is a link to the latest.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/images/catalog"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "images",
		Short:         "Build the container images that the tests run",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		&cobra.Command{
			Use:   "build [NAME...]",
			Short: "Build images and print a line “NAME REFERENCE ARCHIVE” for each",
			RunE: func(cmd *cobra.Command, args []string) error {
				return build(cmd.Context(), args, cmd.OutOrStdout(), cmd.ErrOrStderr())
			},
		},
		&cobra.Command{
			Use:   "list",
			Short: "Print a line “NAME REFERENCE ARCHIVE” for each image, built or not",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				dir, err := cacheDir()
				if err != nil {
					return err
				}
				for _, name := range names() {
					printImage(cmd.OutOrStdout(), dir, name)
				}
				return nil
			},
		},
		&cobra.Command{
			Use:   "podman",
			Short: "Put the files of podman's packages into an archive and print where it is",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withBuilder(cmd.Context(), cmd.ErrOrStderr(), func(b *builder) error {
					if err := b.files(cmd.Context(), "podman", catalog.Podman); err != nil {
						return fmt.Errorf("podman: %w", err)
					}
					_, err := fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(b.dir, "podman.tar"))
					return err
				})
			},
		},
	)
	return root
}

// names lists every image that can be built, our own first.
func names() []string {
	all := []string{catalog.Godwit, catalog.Failpoints}
	for _, image := range catalog.All() {
		all = append(all, image.Name)
	}
	return all
}

func build(ctx context.Context, wanted []string, out, progress io.Writer) error {
	known := names()
	if len(wanted) == 0 {
		// Who wants that variant, or that software, asks for it.
		wanted = slices.DeleteFunc(slices.Clone(known), func(name string) bool {
			return name == catalog.Failpoints || slices.Contains(catalog.Software, name)
		})
	}
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			return fmt.Errorf("there is no image %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return withBuilder(ctx, progress, func(b *builder) error {
		for _, name := range wanted {
			if err := b.build(ctx, name); err != nil {
				return fmt.Errorf("image %s: %w", name, err)
			}
			printImage(out, b.dir, name)
		}
		return nil
	})
}

// withBuilder lets do build into the cache, which nobody else does meanwhile.
func withBuilder(ctx context.Context, progress io.Writer, do func(*builder) error) error {
	dir, err := cacheDir()
	if err != nil {
		return err
	}
	module, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	b, err := newBuilder(ctx, dir, module, progress)
	if err != nil {
		return err
	}
	defer b.close()
	return do(b)
}

func printImage(w io.Writer, dir, name string) {
	_, _ = fmt.Fprintln(w, name, catalog.Ref(name), filepath.Join(dir, name+".tar"))
}

// cacheDir is where archives and everything that helps to make them are kept.
func cacheDir() (string, error) {
	base := os.Getenv("GODWIT_CACHE")
	if base == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		base = filepath.Join(user, "godwit")
	}
	if !filepath.IsAbs(base) {
		return "", errors.New("GODWIT_CACHE has to be an absolute path")
	}
	return filepath.Join(base, "images"), nil
}
