use super::*;

fn only(text: &str) -> Broken {
    let mut documents = documents("a.yaml", text);
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).content.unwrap_err()
}

#[test]
fn whose_a_broken_document_is_is_read_off_any_style() {
    for text in [
        "kind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec: {\n",
        "kind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {\n",
        "kind: AuthorizationPolicy # one\nmetadata: { labels: {a: b}, namespace: 'shop', name: \"p\" }\nspec: {\n",
        "{\"apiVersion\":\"v1\",\"kind\":\"AuthorizationPolicy\",\"metadata\":{\"name\":\"p\",\"namespace\":\"shop\"},\"spec\":",
        "- kind: AuthorizationPolicy\n  metadata: {namespace: shop, name: p}\n  spec: {\n",
    ] {
        let Broken { kind, namespace, name, .. } = only(text);
        let said = [kind, namespace, name].map(Option::unwrap_or_default);
        assert_eq!(said, ["AuthorizationPolicy", "shop", "p"], "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_the_lines_of_the_file_and_in_words_of_the_trade() {
    let text = "# a comment\n\n---\n# another\nkind: Pod\na: 1\na: 2\n";
    let Broken { line, why, .. } = only(text);
    assert_eq!((line, why.as_str()), (7, "duplicate mapping key: a at line 7, column 1"));
    let Broken { line, why, .. } = only("kind: Pod\n---\nkind: Pod\na: [\n".trim_start_matches("kind: Pod\n"));
    assert!(line > 1 && why.contains(&format!("line {line}")), "{line} {why}");
}
