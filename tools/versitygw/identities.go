package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/s3err"
)

// identities says who there is besides the root user. It is a file that whoever started the server may replace while it
// runs; none is an empty one.
type identities struct {
	Users         map[string]string `json:"users"`         // access key: secret key
	Roles         map[string]role   `json:"roles"`         // ARN: who may take it
	Issuer        issuer            `json:"issuer"`        // whose tokens are believed
	Unconditional []string          `json:"unconditional"` // buckets that ignore If-None-Match, as some stores do
}

// role has the rights of a user; who has a token of one of the subjects may take it. A subject may end in *.
type role struct {
	User     string   `json:"user"`
	Subjects []string `json:"subjects"`
	Seconds  int64    `json:"seconds"` // life of its sessions
}

func (r role) admits(subject string) bool {
	for _, one := range r.Subjects {
		if before, open := strings.CutSuffix(one, "*"); one == subject || (open && strings.HasPrefix(subject, before)) {
			return true
		}
	}
	return false
}

// accounts is versitygw's IAM over such a file. Sessions are not kept: a session token says all of it, signed with the
// root user's secret, so that one outlives a restart of the server.
type accounts struct {
	file string
	root auth.Account
}

var errExpired = s3err.APIError{
	Code:           "ExpiredToken",
	Description:    "The provided token has expired.",
	HTTPStatusCode: http.StatusBadRequest,
}
var errFixed = s3err.GetAPIError(s3err.ErrAdminMethodNotSupported)

func (a accounts) read() (found identities, err error) {
	data, err := os.ReadFile(a.file)
	if errors.Is(err, os.ErrNotExist) {
		return found, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &found)
	}
	return found, err
}

func (a accounts) GetUserAccount(access string) (auth.Account, error) {
	if access == a.root.Access {
		return a.root, nil
	}
	found, err := a.read()
	if err != nil {
		return auth.Account{}, err
	}
	secret, known := found.Users[access]
	if !known {
		return auth.Account{}, auth.ErrNoSuchUser
	}
	return auth.Account{Access: access, Secret: secret, Role: auth.RoleUser}, nil
}

func (a accounts) ResolveAccounts(keys []string) (missing []string, err error) {
	for _, key := range keys {
		if _, err := a.GetUserAccount(key); errors.Is(err, auth.ErrNoSuchUser) {
			missing = append(missing, key)
		} else if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

func (accounts) CreateAccount(auth.Account) error                  { return errFixed }
func (accounts) UpdateUserAccount(string, auth.MutableProps) error { return errFixed }
func (accounts) DeleteUserAccount(string) error                    { return errFixed }
func (accounts) ListUserAccounts() ([]auth.Account, error)         { return nil, errFixed }
func (accounts) Shutdown() error                                   { return nil }

// DeriveSigningKey makes this an auth.SigningKeyProvider, without which versitygw refuses session tokens.
func (a accounts) DeriveSigningKey(access, token, date, region, service string) ([]byte, auth.Account, error) {
	if token == "" {
		account, err := a.GetUserAccount(access)
		if err != nil {
			return nil, auth.Account{}, err
		}
		return signingKey(account.Secret, date, region, service), account, nil
	}
	opened, err := a.open(token)
	if err != nil {
		return nil, auth.Account{}, err
	}
	if opened.Access != access {
		return nil, auth.Account{}, auth.ErrInvalidSessionToken
	}
	account, err := a.GetUserAccount(opened.User)
	account.Secret = ""
	return signingKey(a.secretOf(opened), date, region, service), account, err
}

// session is what a session token holds.
type session struct {
	Access string `json:"access"`
	User   string `json:"user"`
	Until  int64  `json:"until"` // seconds since 1970
}

func (a accounts) newSession(taken role) (session, string) {
	random := make([]byte, 10)
	_, _ = rand.Read(random)
	until := time.Now().Unix() + taken.Seconds
	made := session{"ASIA" + base32.StdEncoding.EncodeToString(random), taken.User, until}
	payload, _ := json.Marshal(made)
	return made, base64.URLEncoding.EncodeToString(append(a.sign("token", payload), payload...))
}

func (a accounts) open(token string) (opened session, err error) {
	data, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(data) < sha256.Size || !hmac.Equal(data[:sha256.Size], a.sign("token", data[sha256.Size:])) {
		return opened, auth.ErrInvalidSessionToken
	}
	if err = json.Unmarshal(data[sha256.Size:], &opened); err == nil && time.Now().Unix() >= opened.Until {
		err = errExpired
	}
	return opened, err
}

func (a accounts) secretOf(s session) string {
	return base64.RawURLEncoding.EncodeToString(a.sign("secret", []byte(s.Access)))
}

func (a accounts) sign(purpose string, data []byte) []byte {
	return sum([]byte(a.root.Secret), purpose+"\x00"+string(data))
}

// signingKey is the key of AWS Signature Version 4.
func signingKey(secret, date, region, service string) []byte {
	return sum(sum(sum(sum([]byte("AWS4"+secret), date), region), service), "aws4_request")
}

func sum(key []byte, data string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(data))
	return mac.Sum(nil)
}
