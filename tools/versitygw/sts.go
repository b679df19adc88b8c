package main

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/golang-jwt/jwt/v5"
)

// issuer is an OpenID Connect issuer, such as a cluster's API server, with its RSA keys (RFC 7517).
type issuer struct {
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
	JWKS     struct {
		Keys []struct {
			ID       string `json:"kid"`
			Modulus  string `json:"n"`
			Exponent string `json:"e"`
		} `json:"keys"`
	} `json:"jwks"`
}

// subject is whose token it is, if the issuer made it for us and it has not expired.
func (i issuer) subject(token string) (string, error) {
	claims := &jwt.RegisteredClaims{}
	_, err := jwt.ParseWithClaims(token, claims, i.key, jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithIssuer(i.Issuer), jwt.WithAudience(i.Audience), jwt.WithExpirationRequired())
	return claims.Subject, err
}

func (i issuer) key(token *jwt.Token) (any, error) {
	for _, one := range i.JWKS.Keys {
		if one.ID == token.Header["kid"] {
			modulus, err := base64.RawURLEncoding.DecodeString(one.Modulus)
			exponent, other := base64.RawURLEncoding.DecodeString(one.Exponent)
			key := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(new(big.Int).SetBytes(exponent).Int64())}
			return key, errors.Join(err, other)
		}
	}
	return nil, errors.New("no key of the issuer has this kid")
}

// The answers of AWS STS, as far as SDKs read them:
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
type assumed struct {
	XMLName     xml.Name    `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleWithWebIdentityResponse"`
	Credentials credentials `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	Subject     string      `xml:"AssumeRoleWithWebIdentityResult>SubjectFromWebIdentityToken"`
}

type credentials struct {
	AccessKeyId     string
	SecretAccessKey string
	SessionToken    string
	Expiration      string
}

type refused struct {
	XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
	Type    string   `xml:"Error>Type"`
	Code    string   `xml:"Error>Code"`
	Message string   `xml:"Error>Message"`
	status  int
}

func refusal(status int, code, message string) *refused {
	return &refused{Type: "Sender", Code: code, Message: message, status: status}
}

// exchange answers AssumeRoleWithWebIdentity on the path / of the S3 endpoint, where MinIO has it too.
func (a accounts) exchange(ctx fiber.Ctx) error {
	form, err := url.ParseQuery(string(ctx.Body()))
	if err != nil || form.Get("Action") != "AssumeRoleWithWebIdentity" {
		return ctx.Next()
	}
	answer, no := a.assume(form)
	if no != nil {
		return respond(ctx, no.status, no)
	}
	return respond(ctx, http.StatusOK, answer)
}

func (a accounts) assume(form url.Values) (*assumed, *refused) {
	known, err := a.read()
	if err != nil {
		return nil, refusal(http.StatusInternalServerError, "InternalFailure", err.Error())
	}
	subject, err := known.Issuer.subject(form.Get("WebIdentityToken"))
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, refusal(http.StatusBadRequest, "ExpiredTokenException", "Token expired")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, refusal(http.StatusBadRequest, "InvalidIdentityToken", "Incorrect token audience")
	case err != nil:
		return nil, refusal(http.StatusBadRequest, "InvalidIdentityToken", err.Error())
	}
	taken, found := known.Roles[form.Get("RoleArn")]
	if !found || !taken.admits(subject) {
		message := fmt.Sprintf("%s is not authorized to perform: sts:AssumeRoleWithWebIdentity", subject)
		return nil, refusal(http.StatusForbidden, "AccessDenied", message)
	}
	made, token := a.newSession(taken)
	until := time.Unix(made.Until, 0).UTC().Format(time.RFC3339)
	return &assumed{Credentials: credentials{made.Access, a.secretOf(made), token, until}, Subject: subject}, nil
}

func respond(ctx fiber.Ctx, status int, answer any) error {
	body, err := xml.Marshal(answer)
	if err != nil {
		return err
	}
	ctx.Set(fiber.HeaderContentType, "text/xml")
	return ctx.Status(status).Send(body)
}
