// Command versitygw serves a folder as S3 on one address, for tests and the local demo.
//
// It is versitygw's own posix backend and HTTP front, embedded, plus two things. A guard: release 1.8.0 publishes a short
// object when a client dies in the middle of an unsigned body (versitygw issue 2414, fixed after 1.8.0). And users and
// roles from a file: versitygw's own STS asks for an issuer on the internet.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

const maxCopySize = 5 << 30 // bytes, S3's own limit; the zero value would refuse every CopyObject

type settings struct {
	listen, data, identities, certificate, key, domain string
}

func main() {
	var to settings
	flag.StringVar(&to.listen, "listen", "127.0.0.1:7070", "address to serve on")
	flag.StringVar(&to.data, "data", "", "folder that holds the buckets (absolute, with user xattrs)")
	flag.StringVar(&to.identities, "identities", "", "file with users and roles (absolute); read at each request")
	flag.StringVar(&to.certificate, "certificate", "", "PEM file (absolute), to serve HTTPS")
	flag.StringVar(&to.key, "key", "", "PEM file of the certificate's key (absolute)")
	flag.StringVar(&to.domain, "domain", "", "domain whose subdomains are buckets too (virtual-hosted addresses)")
	tied := flag.Bool("until-stdin-closes", false, "stop when standard input ends, so that no server outlives its parent")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *tied {
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); stop() }()
	}
	if err := serve(ctx, to); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, to settings) error {
	if err := (meta.XattrMeta{}).Test(to.data); err != nil {
		return err
	}
	folder, err := posix.New(to.data, meta.XattrMeta{}, posix.PosixOpts{Concurrency: 5000, CopyObjectThreshold: maxCopySize})
	if err != nil {
		return err
	}
	// The names of the plain command line; from the environment, because arguments are visible to every user.
	access, secret := os.Getenv("ROOT_ACCESS_KEY"), os.Getenv("ROOT_SECRET_KEY")
	known := accounts{to.identities, auth.Account{Access: access, Secret: secret, Role: auth.RoleAdmin}}
	return embedgw.RunVersityGW(ctx, guarded{folder, known}, &embedgw.Config{
		RootUserAccess:    access,
		RootUserSecret:    secret,
		HealthPath:        "/" + access, // so that a parent knows this server from another one on its port
		Ports:             []string{to.listen},
		CertFile:          to.certificate,
		KeyFile:           to.key,
		VirtualDomain:     to.domain,
		IAMService:        known,
		S3Options:         []s3api.Option{s3api.WithRoute("POST", "/", known.exchange)},
		MaxConnections:    250000, // this and the next two: defaults of the plain command line
		MaxRequests:       100000,
		MultipartMaxParts: 10000,
		KeepAlive:         true,
		Quiet:             true,
	})
}

// guarded refuses an upload whose body ends before its Content-Length, as S3 does.
type guarded struct {
	backend.Backend
	accounts accounts
}

func (b guarded) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	known, err := b.accounts.read()
	if err != nil {
		return s3response.PutObjectOutput{}, err
	}
	if slices.Contains(known.Unconditional, *in.Bucket) {
		in.IfNoneMatch = nil
	}
	in.Body = countBody(in.Body, in.ContentLength)
	return b.Backend.PutObject(ctx, in)
}

func (b guarded) UploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	in.Body = countBody(in.Body, in.ContentLength)
	return b.Backend.UploadPart(ctx, in)
}

func countBody(body io.Reader, length *int64) io.Reader {
	if body == nil || length == nil {
		return body
	}
	counted := &countedBody{body, *length}
	if sum, ok := body.(middlewares.ChecksumReader); ok {
		return &countedChecksumBody{countedBody: counted, sum: sum}
	}
	return counted
}

type countedBody struct {
	body    io.Reader
	missing int64 // bytes
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.missing -= int64(n)
	if err == io.EOF && c.missing > 0 {
		err = s3err.GetAPIError(s3err.ErrIncompleteBody)
	}
	return n, err
}

// countedChecksumBody keeps the trailer checksum visible, which the backend looks for in the body's type.
type countedChecksumBody struct {
	*countedBody
	sum middlewares.ChecksumReader
}

func (c *countedChecksumBody) Algorithm() string { return c.sum.Algorithm() }
func (c *countedChecksumBody) Checksum() string  { return c.sum.Checksum() }
